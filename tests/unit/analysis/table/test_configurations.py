"""What makes a configuration, and what only looks like a seed or a size."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.table.configurations import check_repeats, configuration_columns
from analysis.table.selection import select
from drorae.errors import UserError

SIZES = np.geomspace(1e5, 3e7, 6)


def runs(seeds: tuple[int, ...] = (0, 1), **settings: tuple[object, ...]) -> pd.DataFrame:
    """Every size with every seed and every value of every setting."""
    rng = np.random.default_rng(0)
    rows = list(itertools.product(SIZES, seeds, *settings.values()))
    frame = pd.DataFrame(rows, columns=["params", "seed", *settings])
    return frame.assign(rfid=2 - 0.1 * np.log10(frame["params"]) + rng.normal(0, 0.01, len(frame)))


@pytest.mark.parametrize(
    "name",
    ["host.name", "val.rfid_ema", "metrics.psnr", "tags.mlflow.runName", "metrics.val.loss", "time.wall", "a.b.c",
     "system.gpu.0.memory", "loss.total", "eval.score"],
)  # fmt: skip
def test_a_dotted_column_that_is_no_config_field_makes_no_configuration(name: str) -> None:
    frame = runs()
    plain = analyse(frame, "params", "rfid").line
    for cells in (np.random.default_rng(1).normal(size=12), [f"text {i}" for i in range(12)]):
        found = analyse(frame.assign(**{name: cells}), "params", "rfid").line
        assert found.sample.n == 6 and found.slope_ci95 == pytest.approx(plain.slope_ci95)


def test_config_fields_and_declared_columns_make_configurations() -> None:
    frame = runs(**{"phase2.lr": (1e-3, 1e-4), "incremental": (True, False), "width.multiplier": (1, 2)})
    frame["fusion.rank"] = 1.0
    assert configuration_columns(frame) == ["phase2.lr", "incremental"]
    frame.attrs["configuration"] = ["width.multiplier"]
    assert configuration_columns(frame) == ["phase2.lr", "incremental", "width.multiplier"]
    assert select(frame, "params", "rfid").configurations.max() + 1 == 6 * 8


@pytest.mark.parametrize("name", ["phase2.lr", "fusion.beta", "variant", "probe.seed"])
def test_seeds_that_would_count_as_sizes_are_refused(name: str) -> None:
    frame = runs((0, 1, 2)).assign(**{name: lambda table: table["seed"] / 10})
    with pytest.raises(UserError, match=rf"also differ in {name}: no configuration has two runs"):
        select(frame, "params", "rfid")


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize(
    "settings",
    [{"lr": (1e-3, 1e-4), "schedule": ("cosine", "linear")}, {"width": (1, 2, 4)}, {"amp": (True, False)},
     {"loss_weight": (0.1, 1.0)}, {"optimizer.name": ("adam", "sgd")}, {"config.lr": (1, 2)}, {"loss": ("l1", "l2")}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["seeds", "no seeds", "seeds of their own"])
def test_settings_are_no_seeds(seeds: tuple[int, ...], settings: dict, kind: str) -> None:
    frame = runs(seeds, **settings)
    if kind == "no seeds":
        frame = frame.drop(columns="seed")
    elif kind == "seeds of their own":
        frame["seed"] = np.arange(len(frame)) + 1234567.0
    with pytest.raises(UserError) as caught:
        analyse(frame, "params", "rfid")
    message = str(caught.value)
    assert f"differ in {', '.join(settings)}" in message and "\n" not in message
    assert f"--configuration {' '.join(settings)}" in message and f"--best-of {' '.join(settings)}" in message


def test_settings_drawn_at_random_are_no_seeds() -> None:
    frame = runs((0,), draw=(1, 2, 3)).drop(columns="draw")
    frame["alpha"] = np.random.default_rng(3).uniform(size=len(frame))
    with pytest.raises(UserError, match="differ in alpha"):
        select(frame, "params", "rfid")


@pytest.mark.parametrize(
    "columns",
    [{"host": ["a", "b"] * 6}, {"val_loss": range(12)}, {"psnr": np.linspace(20, 30, 12)}, {"Runtime": range(12)},
     {"startTime": [f"10:0{i % 10}" for i in range(12)]}, {"baseline_psnr": [20.1, 20.2] * 6},
     {"gain_psnr": np.linspace(0, 1, 12)}, {"gain_rfd_dinov2_se": np.linspace(0, 1, 12)}, {"gain_l1": [0.1, 0.2] * 6},
     {"phase1_weights": ["x", "y"] * 6}, {"notes": ["", "again"] * 6},
     {"GPU Type": ["A100", "H100"] * 6}, {"tags": [["a"], ["b"]] * 6}],
)  # fmt: skip
def test_measurements_times_and_identities_are_no_settings(columns: dict) -> None:
    frame = runs().assign(**columns)
    frame.attrs["mix_decoders"] = True
    assert select(frame, "params", "rfid").configurations.max() == 5


def test_known_columns_are_not_asked_about() -> None:
    frame = runs((0,), design=("a", "b"), layers=(1, 2))
    check_repeats(frame, frame["params"].to_numpy(), ["0"] * len(frame), ("rfid", "params", "design", "layers"))
    with pytest.raises(UserError, match="differ in layers"):
        check_repeats(frame, frame["params"].to_numpy(), ["0"] * len(frame), ("rfid", "params", "design"))

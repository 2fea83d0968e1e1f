"""The probe: its linear part against least squares, and that it learns, ranks and repeats."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import in_processes

from drorae.config import ProbeConfig, Runtime
from drorae.diagnostics.probe import ProbeStepper, held_out_loss, latent_space, linear_loss, train_probe
from drorae.errors import UserError
from drorae.training.loop import Report

CPU = torch.device("cpu")
SMALL = ProbeConfig(
    steps=60, width=32, depth=2, heads=2, batch_size=32, lr=3e-3, head_width=32, head_depth=1, head_heads=2
)
RUNTIME = Runtime(device="cpu", threads=1, checkpoint_seconds=0)


Probed = Callable[..., dict[str, float]]


@pytest.fixture
def probed(tmp_path: Path) -> Probed:
    """The probe's numbers of latents; each call from a checkpoint of its own, unless it says which."""
    calls = itertools.count()

    def train(
        latents: torch.Tensor, held_out: torch.Tensor, config: ProbeConfig = SMALL, name: str = "",
        report: Report = lambda row: None, deviation: torch.Tensor | None = None,
    ) -> dict[str, float]:  # fmt: skip
        checkpoint = tmp_path / (name or f"{next(calls)}.pt")
        return train_probe(latents, held_out, config, CPU, checkpoint, RUNTIME, report, deviation)

    return train


def drawn(kind: str, count: int, seed: int) -> torch.Tensor:
    """Latents [count, 4, 8]: noise; correlated channels; or the four tokens of an image alike up to a little noise."""
    noise = torch.Generator().manual_seed(seed)
    independent = torch.randn(count, 4, 8, generator=noise)
    if kind == "noise":
        return independent
    if kind == "correlated":
        return independent[..., :2] @ torch.randn(2, 8, generator=torch.manual_seed(7)) + 0.1 * independent
    return independent[:, :1] + 0.3 * torch.randn(count, 4, 8, generator=noise)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_linear_loss_is_that_of_least_squares(t: float) -> None:
    space = latent_space(drawn("correlated", 20000, 0) * torch.arange(1, 9) + 3)
    clean = space.coordinates(drawn("correlated", 20000, 0) * torch.arange(1, 9) + 3)
    x = clean.reshape(-1, 8).double().numpy()
    eps = np.random.default_rng(0).normal(size=x.shape)
    noisy, target = (1 - t) * x + t * eps, eps - x
    solution = np.linalg.lstsq(noisy, target, rcond=None)[0]
    assert linear_loss(space, clean, t) == pytest.approx(np.mean((noisy @ solution - target) ** 2), rel=0.02)


def test_training_starts_from_the_linear_denoiser() -> None:
    latents = drawn("correlated", 2000, 0)
    space = latent_space(latents)
    model = ProbeStepper(SMALL, space, space.coordinates(latents), CPU, RUNTIME).module
    for t in SMALL.levels:
        measured = held_out_loss(model, space.coordinates(latents), t, SMALL, CPU)
        assert measured == pytest.approx(linear_loss(space, space.coordinates(latents), t), rel=0.02)


def test_an_interrupted_probe_ends_as_one_that_was_not(probed: Probed) -> None:
    train, held_out = drawn("alike", 256, 0), drawn("alike", 128, 1)
    config = replace(SMALL, steps=30)
    whole = probed(train, held_out, config)

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probed(train, held_out, config, "cut.pt", stop)
    rows: list[dict[str, Any]] = []
    assert probed(train, held_out, config, "cut.pt", rows.append) == whole
    # What was taken before is reported again, and not taken again.
    assert [row["step"] for row in rows] == [10, 20, 30]


def _alike(checkpoint: Path) -> dict[str, float]:
    """The probe's numbers of one set of latents."""
    return train_probe(drawn("alike", 256, 0), drawn("alike", 128, 1), SMALL, CPU, checkpoint, RUNTIME)


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    alone = _alike(tmp_path / "alone.pt")
    found = in_processes(2, tmp_path / "meet", _alike, tmp_path / "both.pt")
    assert found == [pytest.approx(alone, rel=1e-5)] * 2 and found[0] == found[1]


@pytest.mark.slow
def test_the_loss_falls_with_training_and_is_reproducible(probed: Probed) -> None:
    train, held_out = drawn("alike", 256, 0), drawn("alike", 128, 1)
    short = probed(train, held_out, replace(SMALL, steps=20))
    rows: list[dict[str, float | str]] = []
    long = probed(train, held_out, replace(SMALL, steps=200), report=rows.append)
    assert long["probe_loss"] < short["probe_loss"] < 1.02 * short["probe_linear"]
    # Three other tokens tell most about each: single tokens cannot come near.
    assert long["probe_loss"] < 0.8 * long["probe_linear"]
    assert [row["step"] for row in rows] == [float(step) for step in range(10, 201, 10)]
    assert probed(train, held_out, replace(SMALL, steps=20)) == short
    assert probed(train, held_out, replace(SMALL, steps=20, seed=1)) != short


def test_structured_latents_rank_before_noise(probed: Probed) -> None:
    losses = {kind: probed(drawn(kind, 512, 0), drawn(kind, 256, 1)) for kind in ("noise", "correlated", "alike")}
    assert losses["noise"]["probe_loss"] > 1.05 * losses["alike"]["probe_loss"]
    assert losses["noise"]["probe_loss"] > 1.2 * losses["correlated"]["probe_loss"]
    # Noise of variance 1 leaves nothing to learn but the variances.
    assert losses["noise"]["probe_relative"] == pytest.approx(1, abs=0.05)
    assert losses["noise"]["probe_loss_t50"] == pytest.approx(2, rel=0.05)


def test_scale_and_shift_of_channels_do_not_count(probed: Probed) -> None:
    train, held_out = drawn("alike", 256, 0), drawn("alike", 128, 1)
    scale = 2.0 ** torch.arange(-4, 4)
    same = probed(train, held_out)
    assert probed(train * scale, held_out * scale) == same
    moved = probed(train * 3 + 5, held_out * 3 + 5)
    assert moved["probe_linear"] == pytest.approx(same["probe_linear"], rel=1e-4)


def test_a_foreign_scale_counts(probed: Probed) -> None:
    """Noise twice as wide as what it is divided by: in closed form, and where the probe ends."""
    train, held_out = 2 * drawn("noise", 512, 0), 2 * drawn("noise", 256, 1)
    wide = probed(train, held_out, replace(SMALL, steps=20), deviation=torch.ones(8))
    # Variance l = 4 leaves l / ((1 - t)^2 l + t^2) in v.
    for name, t in (("probe_loss_t25", 0.25), ("probe_loss_t50", 0.5), ("probe_loss_t75", 0.75)):
        assert wide[name] == pytest.approx(4 / (4 * (1 - t) ** 2 + t**2), rel=0.08)
    assert wide["probe_relative"] == pytest.approx(1, abs=0.05)


def test_a_constant_channel_is_no_trouble(probed: Probed) -> None:
    train, held_out = drawn("noise", 64, 0), drawn("noise", 64, 1)
    train[..., 3] = held_out[..., 3] = 2.0
    assert np.isfinite(list(probed(train, held_out, replace(SMALL, steps=5)).values())).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"levels": (0.0, 0.5)}, "levels"),
        ({"levels": (0.501, 0.502)}, "probe.levels"),
        ({"heads": 3}, "probe.width"),
        ({"steps": -1}, "steps"),
    ],
)
def test_mistakes_are_named(probed: Probed, changes: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        probed(drawn("noise", 32, 0), drawn("noise", 32, 1), replace(SMALL, **changes))
    with pytest.raises(UserError, match="square grid"):
        probed(torch.zeros(8, 3, 8), torch.zeros(8, 3, 8))

"""Sizes that seeds measured differently count once per configuration."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.inference.axes import analyse_axes
from analysis.inference.designs import compare_designs
from analysis.table.measured import average_size, is_measured_size
from analysis.table.selection import select


def table(column: str = "device_seconds", sizes: int = 6, seeds: int = 3) -> pd.DataFrame:
    """A trial per capacity and seed, whose seconds no two trials share."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "variant": "energy",
            "expert_hidden_dim": width,
            "num_layers": layers,
            "seed": seed,
            "train_flops": 1e9 * width,
        }
        | {column: 10 * width * layers * rng.uniform(0.8, 1.2), "psnr": 20 + np.log10(width) + rng.normal(0, 0.1)}
        for width in 2 ** np.arange(3, 3 + sizes)
        for layers in (4,)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("column", ["device_seconds", "train_seconds", "wall_seconds", "peak_memory_gb", "val_loss"])
def test_a_measured_size_is_one_per_configuration(column: str) -> None:
    found = analyse(table(column), column, "psnr")
    assert (found.line.n, found.line.sample.n) == (18, 6)
    frame = table(column)
    means = np.exp(np.log(frame[column]).groupby(frame["expert_hidden_dim"]).mean())
    np.testing.assert_allclose(found.line.sample.x[:, 0], means)
    assert f"{column} differs between seeds" in " ".join(item.message for item in found.cautions)
    # The scatter between seeds is known, as it is against a size that was set.
    assert found.line.seed_sd == pytest.approx(analyse(frame, "capacity", "psnr").line.seed_sd)
    assert select(frame, column, "psnr", log=False).x[0] == pytest.approx(frame[column][:3].mean())


def test_compute_is_an_axis() -> None:
    found = analyse(table(), "train_flops", "psnr")
    assert found.line.sample.n == 6 and found.selection.averaged == ()
    assert found.line.slope == pytest.approx(analyse(table(), "capacity", "psnr").line.slope)


def test_sizes_that_were_set_and_runs_that_seeds_do_not_tell_apart_stay_as_they_are() -> None:
    frame = table()
    assert not is_measured_size("fusion_params") and not is_measured_size("train_flops")
    for changed in (frame.assign(seed=0), frame.drop(columns="seed"), frame.drop(columns="expert_hidden_dim")):
        assert select(changed, "device_seconds", "psnr").averaged == ()
    two = frame[frame["expert_hidden_dim"] < 32]
    kept = average_size(two, "device_seconds", two["device_seconds"].to_numpy(), two["seed"].astype(str).tolist())
    np.testing.assert_array_equal(kept, two["device_seconds"])


def test_designs_and_second_axes_are_averaged_apart() -> None:
    frame = pd.concat([table(), table().assign(variant="mean", device_seconds=lambda t: 3 * t["device_seconds"])])
    both = compare_designs(frame.reset_index(drop=True), "device_seconds", "psnr")
    assert [item.n_configurations for item in both.lines] == [6, 6]
    parts = [table().assign(num_layers=n, device_seconds=lambda t, n=n: t["device_seconds"] * n**2) for n in (1, 4, 12)]
    found = analyse_axes(pd.concat(parts, ignore_index=True), "capacity", "device_seconds", "psnr")
    assert (found.sample.n, len(found.selection.x)) == (18, 54)
    assert "size-averaged" in [item.code for item in found.cautions]


def test_the_best_of_a_setting_is_taken_within_a_measured_size() -> None:
    parts = [table().assign(lr=lr, psnr=lambda t, lr=lr: t["psnr"] - lr) for lr in (0.1, 0.5)]
    frame = pd.concat(parts, ignore_index=True)
    frame["device_seconds"] *= np.random.default_rng(1).uniform(0.9, 1.1, len(frame))
    frame.attrs["best_of"] = ["lr"]
    found = select(frame, "device_seconds", "psnr")
    assert len(found.x) == 18 and len(np.unique(found.x)) == 6 and set(found.used["lr"]) == {0.1}

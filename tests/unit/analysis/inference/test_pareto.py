"""Pareto sets, against their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.inference.pareto import pareto_set, upwards
from analysis.report.figures import pareto_figure
from drorae.errors import UserError


def test_a_pareto_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"fusion_params": 10 ** rng.uniform(5, 8, 200), "psnr": rng.normal(20, 1, 200)})
    table["status"] = np.where(np.arange(200) % 10, "finished", "failed")
    found = pareto_set(table, ["fusion_params", "psnr"])
    finished = table[table["status"] == "finished"]
    for label, row in finished.iterrows():
        better = (finished["fusion_params"] <= row["fusion_params"]) & (finished["psnr"] >= row["psnr"])
        assert (better.sum() == 1) == (label in found.index), "only it itself is as good in both"
    assert pareto_figure(table, ["fusion_params", "psnr"], tmp_path).stat().st_size > 10_000
    with pytest.raises(UserError, match="two objectives"):
        pareto_set(table, ["psnr"])


def test_which_way_is_better_is_known_of_metrics_and_of_sizes() -> None:
    assert upwards("psnr") and upwards("ssim") and upwards("baseline_psnr") and upwards("gain_rfd_dinov2")
    assert not any(map(upwards, ("rfd_dinov2", "fusion_params", "train_seconds", "unknown")))


def test_runs_as_good_as_each_other_are_both_kept_and_rows_without_numbers_are_not() -> None:
    frame = pd.DataFrame({"params": [1, 1, 2, 2, 1], "rfid": [5.0, 5.0, 5.0, 3.0, np.nan]})
    assert list(pareto_set(frame, ["params", "rfid"]).index) == [0, 1, 3]
    with pytest.raises(UserError, match="no finished run has all of them"):
        pareto_set(frame.assign(status="failed"), ["params", "rfid"])

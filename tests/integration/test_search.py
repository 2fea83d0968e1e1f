"""Searches: Optuna's studies through Ray Tune, one for each configuration, found again by a later driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_sweep import sweep
from mlflow.tracking import MlflowClient

from drorae.config import PRESETS, override
from drorae.errors import UserError
from sweeps.parsing import parse_range
from sweeps.spec import Axis, Range, Search, SweepSpec

pytestmark = pytest.mark.usefixtures("ray")


BASE = override(override(PRESETS["smoke"], "encoder.path", "peak=1"), "phase2.lr", "0.0005")
TUNED = SweepSpec(
    "tuned",
    BASE,
    (Axis("capacity", (4, 16)), Axis("seed", (0, 1))),
    search=Search((Range("lr", 1e-4, 1e-1, log=True),), ("psnr",), trials=10),
)


def test_a_learning_rate_is_tuned_at_every_capacity_and_the_best_repeated(tmp_path: Path) -> None:
    outcome = sweep(replace(TUNED, search=replace(TUNED.search, trials=4)), tmp_path)
    first = pd.read_csv(outcome.trials_csv)
    # As after a driver that died: what was tried is kept, and more trials go on from there.
    outcome = sweep(TUNED, tmp_path)
    table = pd.read_csv(outcome.trials_csv)
    assert set(first["config_hash"]) <= set(table["config_hash"]) and table["config_hash"].is_unique
    assert set(table["status"]) == {"finished"}
    for width, rows in table.groupby("expert_hidden_dim"):
        tried = rows[rows["seed"] == 0]
        assert len(tried) == 10 and set(tried["tuning"]) <= {"tried", "best", "fixed", "best fixed"}
        best = rows[rows["tuning"].str.contains("best")]
        # The stand-in is best at 0.02 / width; ten trials come within a third of a decade.
        assert best["psnr"].max() == tried["psnr"].max()
        assert abs(np.log10(best["phase2.lr"].iloc[0] * width / 0.02)) < 1 / 3
        assert set(best["seed"]) == {0, 1} and best["phase2.lr"].nunique() == 1
        fixed = rows[rows["tuning"].str.contains("fixed")]
        assert list(fixed["phase2.lr"]) == [5e-4, 5e-4] and set(fixed["seed"]) == {0, 1}
    logs = {path.parent.name: path.read_text() for path in outcome.directory.glob("trials/*/attempts.log")}
    assert len(logs) == len(table) and {len(text.splitlines()) for text in logs.values()} == {1}, "none was run twice"
    client = MlflowClient(outcome.tracking_uri)
    experiment = client.get_experiment_by_name("tuned")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`drorae.tuning` LIKE '%best%'")
    assert {run.data.tags["drorae.config_hash"] for run in found} == set(
        table[table["tuning"].str.contains("best")]["config_hash"]
    )
    again = sweep(TUNED, tmp_path)
    assert again.trials_csv.read_text() == outcome.trials_csv.read_text()
    with pytest.raises(UserError, match="another search"):
        sweep(replace(TUNED, search=replace(TUNED.search, objectives=("rfd_dinov2",))), tmp_path)


def test_several_objectives_a_pruner_and_a_failing_value(tmp_path: Path) -> None:
    base = override(BASE, "encoder.path", "user=8")
    both = Search((parse_range("capacity=4,8,16", base),), ("psnr", "fusion_params"), trials=5, sampler="nsga2")
    outcome = sweep(SweepSpec("both", base, search=both), tmp_path)
    table = pd.read_csv(outcome.trials_csv)
    assert sorted(table["expert_hidden_dim"]) == [4, 8, 16], "a grid of three values has three trials"
    assert dict(zip(table["expert_hidden_dim"], table["status"], strict=True))[8] == "failed"
    pruned = Search((Range("lr", 1e-3, 1e-1, log=True),), ("psnr",), trials=3, pruner="median")
    outcome = sweep(SweepSpec("pruned", BASE, search=pruned), tmp_path)
    assert sum(outcome.counts.values()) == 3

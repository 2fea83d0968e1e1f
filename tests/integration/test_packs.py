"""A sweep on real Ray whose trials train phase 2 in packs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from tiny import tiny_config, tiny_images

from drorae.config import Runtime
from drorae.trial.result import PACKED
from drorae.trial.run import run_trial
from sweeps.checks import all_trials
from sweeps.driver.run import resume_sweep, run_sweep
from sweeps.spec import Axis, SweepSpec

pytestmark = pytest.mark.usefixtures("ray")


def test_a_packed_sweep_measures_what_its_trials_do_alone(tmp_path: Path) -> None:
    base = tiny_config(tiny_images(tmp_path / "images.npz"))
    spec = SweepSpec("packed", base, (Axis("capacity", (4, 8, 32)), Axis("seed", (0, 1))), check_convergence=True)
    runtime, uri = Runtime(threads=1, cache_dir=str(tmp_path / "cache")), f"sqlite:///{tmp_path}/mlflow.db"
    outcome = run_sweep(spec, root=tmp_path, runtime=runtime, tracking_uri=uri, pack=3)
    assert outcome.counts == {"finished": 8}
    assert "3 packs of trials train phase 2 together" in (outcome.directory / "driver.log").read_text()
    table = pd.read_csv(outcome.trials_csv)
    results = {
        path.parent.name: json.loads(path.read_text()) for path in outcome.directory.glob("trials/*/result.json")
    }
    packed = [results[key]["provenance"].get(PACKED) for key in table["config_hash"]]
    assert packed == ["3"] * 6 + ["2"] * 2
    # One of each pack was only measured by its own worker, and its steps are in MLflow all the same.
    config = all_trials(spec)[table["config_hash"][3]]
    expected = run_trial(config, directory=tmp_path / "alone", runtime=runtime)
    row = table.iloc[3]
    assert {name: row[name] for name in expected.metrics} == pytest.approx(expected.metrics, rel=1e-4)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("packed")
    assert experiment is not None
    key = row["config_hash"]
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`drorae.config_hash` = '{key}'")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) >= 1
    assert resume_sweep(outcome.directory, tracking_uri=uri).counts == {"finished": 8}
    assert replace(base, seed=1) == replace(config, fusion=base.fusion)

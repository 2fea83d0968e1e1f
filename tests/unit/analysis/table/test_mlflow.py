"""Trials of an MLflow store, and fits written back to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import trials

from analysis.report.mlflow import write_fits
from analysis.report.outcome import fit_table
from analysis.table.mlflow import _Run, _trial_row, read_mlflow
from drorae.errors import UserError


@pytest.mark.slow
def test_mlflow_round_trip(tmp_path: Path) -> None:
    """Trials in, fit written back, and once more without a second analysis run."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(UserError, match="no such MLflow store"):
        read_mlflow(uri, "sweep")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"drorae.kind": "sweep"}).info.run_id
    frame = trials()
    for i, row in frame.iterrows():
        tags = {"drorae.kind": "trial", "drorae.config_hash": row["config_hash"], "mlflow.parentRunId": parent}
        run = client.create_run(experiment, tags=tags | {"drorae.status": "finished"}).info.run_id
        client.log_param(run, "fusion.expert_hidden_dim", row["expert_hidden_dim"])
        client.log_param(run, "phase2.lr", 1e-3)
        client.log_param(run, "seed", 0)
        for name in ("fusion_params", "psnr", "eval_images"):
            client.log_metric(run, name, float(row[name]) if (i, name) != (4, "psnr") else np.inf)
        if i != 5:
            client.set_terminated(run)
    read = read_mlflow(uri, "sweep")
    assert sorted(read["config_hash"]) == sorted(frame["config_hash"])
    assert read.set_index("config_hash")["status"]["hash5"] == "running"
    outcome = fit_table(read, "params", ["psnr"], out=tmp_path / "report")
    assert outcome.analyses[0].line.n == 4
    reasons = {reason for _, reason in outcome.analyses[0].selection.excluded}
    assert reasons == {"status running", "psnr is inf, not finite"}

    first = write_fits(outcome.analyses, outcome.paths, uri, "sweep", parent)
    assert write_fits(outcome.analyses, outcome.paths, uri, "sweep", parent) == first
    stored = client.get_run(first[0])
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["slope"] == pytest.approx(outcome.analyses[0].line.slope)
    assert stored.data.tags["mlflow.parentRunId"] == parent
    assert {"law.json", "law.csv", "law.png", "report.html"} <= {item.path for item in client.list_artifacts(first[0])}
    assert len(read_mlflow(uri, parent_run=parent)) == 6
    # Without a filter the tables are read, with one MLflow is asked: the same runs either way.
    for source in ({"experiment": "sweep"}, {"parent_run": parent}):
        asked = read_mlflow(uri, **source, filter_string="attributes.run_id != 'none'")
        pd.testing.assert_frame_equal(read_mlflow(uri, **source), asked)
    narrowed = read_mlflow(uri, "sweep", filter_string="metrics.psnr > 21 and params.`phase2.lr` = '0.001'")
    assert sorted(narrowed["psnr"]) == [21.2, 22.1, np.inf]
    assert list(narrowed["run_url"]) == [
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}" for run in narrowed["run_id"]
    ]
    with pytest.raises(UserError, match="MLflow does not understand it") as caught:
        read_mlflow(uri, "sweep", filter_string="psnr above 21")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no trials that match"):
        read_mlflow(uri, "sweep", filter_string="metrics.psnr < 0")
    foreign = client.create_experiment("foreign")
    client.set_terminated(client.create_run(foreign).info.run_id)
    client.create_run(foreign)
    assert sorted(read_mlflow(uri, "foreign")["status"]) == ["finished", "running"]
    with pytest.raises(UserError, match="experiments there: Default, foreign, sweep"):
        read_mlflow(uri, "swep")
    with pytest.raises(UserError, match="did not answer"):
        read_mlflow(uri, parent_run="0" * 32)


def test_a_run_that_checks_convergence_is_known_by_its_tag() -> None:
    tags = {"drorae.config_hash": "abc", "drorae.status": "finished"}
    run = _Run("run", "FINISHED", {"seed": "0"}, {"psnr": 20.0}, tags)
    assert "role" not in _trial_row(run)
    assert _trial_row(run._replace(tags=tags | {"drorae.role": "convergence"}))["role"] == "convergence"
    assert "role" not in _trial_row(run._replace(tags=tags | {"drorae.role": ""}))

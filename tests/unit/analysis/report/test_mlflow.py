"""Predictions that are registered in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis.inference.analysis import Analysis
from analysis.inference.predict import register
from drorae.errors import UserError


@pytest.mark.slow
def test_predictions_go_to_mlflow(tmp_path: Path, paper: Analysis) -> None:
    from analysis.report.mlflow import write_predictions

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", str(tmp_path / "artifacts"))
    record = register(paper.comparison, paper.predict(2e8))
    (run_id,) = write_predictions([record], uri, "sweep")
    run = client.get_run(run_id)
    assert run.info.experiment_id == experiment and run.info.status == "FINISHED"
    assert run.data.tags["drorae.data_sha256"] == record["data_sha256"]
    kept = json.loads(Path(client.download_artifacts(run_id, "prediction.json", str(tmp_path))).read_text())
    assert kept == record
    with pytest.raises(UserError, match="no such experiment"):
        write_predictions([record], uri, "other")

"""Fits that are written back to MLflow, and predictions that are registered there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from analysis.inference.analysis import Analysis
from analysis.inference.predict import register
from drorae.commands.main import main
from drorae.errors import UserError


@pytest.mark.slow
def test_predictions_go_to_mlflow(new_store: Callable[[Path], str], tmp_path: Path, paper: Analysis) -> None:
    from analysis.report.mlflow import write_predictions

    uri = new_store(tmp_path)
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


ASKED = {
    "power-offset": (["--law", "power-offset"], "power-offset", {"E", "A", "b"}),
    "huber": (["--method", "huber", "--resamples", "150"], "log-linear by Huber's loss", {"intercept", "slope"}),
    "huber power-offset": (
        ["--method", "huber", "--law", "power-offset", "--residuals", "plain", "--resamples", "150"],
        "power-offset by Huber's loss",
        {"E", "A", "b"},
    ),
}


@pytest.fixture(scope="module")
def store(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store: twelve trials on a power law with offset, one of them failed, in experiment `sweep`."""
    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(new_store(folder))
    experiment = client.create_experiment("sweep", str(folder / "artifacts"))
    noise = np.random.default_rng(0).normal(0, 0.002, 12)
    for i, size in enumerate(np.geomspace(1e5, 1e8, 12).tolist()):
        tags = {"drorae.kind": "trial", "drorae.config_hash": f"{i:012x}"}
        run = client.create_run(experiment, tags=tags).info.run_id
        values = {"fusion_params": size, "rfd_dinov2": 0.3 + 20 * size**-0.4 + float(noise[i])}
        client.log_batch(run, metrics=[Metric(name, value, 0, 0) for name, value in values.items()])
        client.set_terminated(run, "FAILED" if i == 11 else "FINISHED")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_a_law_asked_for_is_written_back_beside_its_trials(
    asked: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, law, names = ASKED[asked]
    uri = f"sqlite:///{store}/mlflow.db"
    source = ["fit", "mlflow:sweep", "--tracking-uri", uri, "--y", "rfd_dinov2", "--track", "--json", *options]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("sweep").experiment_id
    pages = ["--out", str(tmp_path / "law")] if asked == "huber" else []
    # A fit made again is written over the first: neither is taken for a trial, nor for another law's fit.
    for more in ([], pages):
        assert main([*source, *more]) == 0
        tree = json.loads(capsys.readouterr().out)
    runs = client.search_runs([experiment], "tags.`drorae.kind` = 'analysis'")
    (run,) = (run for run in runs if run.data.tags["drorae.law"] == law)
    assert (run.info.status, tree["n"], run.data.metrics["n_configurations"]) == ("FINISHED", 11, 11)
    parameters = {item["name"]: item for item in tree["asked"]["parameters"]}
    assert set(parameters) == names
    metrics = run.data.metrics
    for name, said in parameters.items():
        low, high = said["ci95"]
        found = [metrics[f"law.{name}{end}"] for end in ("_ci_low", "", "_ci_high")]
        assert found == pytest.approx([low, said["value"], high], rel=1e-12)
        assert found == sorted(found)
    assert metrics["slope"] == pytest.approx(tree["slope"], rel=1e-12)
    if "E" in names:
        assert metrics["law.E_ci_low"] <= 0.3 <= metrics["law.E_ci_high"]
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept >= {"law.json", "law.png", "report.html", "residuals.png"} or not pages

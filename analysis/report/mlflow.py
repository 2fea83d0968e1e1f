"""Writes fits and predictions back to MLflow, one run each, beside the trials they come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.inference.analysis import Analysis
from analysis.inference.cautions import cautions
from analysis.laws.line import Line
from analysis.table.mlflow import check_store
from drorae.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@contextlib.contextmanager
def _experiment(tracking_uri: str, experiment: str, what: str, otherwise: str) -> Iterator[tuple[MlflowClient, str]]:
    """A client and the id of an experiment that is there; what MLflow refuses within becomes a UserError."""
    check_store(tracking_uri)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError(f"writing to MLflow needs mlflow; pip install mlflow, or {otherwise}") from None
    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise UserError(
                f"{experiment}: no such experiment in {tracking_uri}; expected the one that holds the trials"
            )
        yield client, found.experiment_id
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{tracking_uri}: MLflow did not take the {what} ({reason})") from None


def write_fits(
    analyses: Sequence[Analysis],
    paths: Mapping[str, Path],
    tracking_uri: str,
    experiment: str,
    parent_run: str | None = None,
) -> list[str]:
    """Records each fit as a run tagged drorae.kind=analysis and returns the run ids.

    Metrics: slope, intercept, r2, slope_ci_low, slope_ci_high, residual_sd, n, n_configurations. Tags: law, x, y,
    unit and warning codes, each under drorae. Artifacts: the report's files. The run of an earlier fit of the same
    experiment, parent, metric, x, law and unit is written over, so that repeating a fit piles nothing up.

    Args:
        analyses: one per metric.
        paths: the report's files by name.
        tracking_uri: of the MLflow store.
        experiment: name of the experiment that holds the trials.
        parent_run: id of the run that the fits are nested in; none by default.

    Raises:
        UserError: mlflow is missing, the store or experiment is not there, or MLflow refuses.
    """
    ids = []
    with _experiment(tracking_uri, experiment, "fit", "leave the fit as files") as (client, experiment_id):
        from mlflow.entities import Metric, RunTag
        from mlflow.utils.time import get_current_time_millis

        for analysis in analyses:
            line = analysis.line
            run_id = _run_of(client, experiment_id, line, parent_run)
            low, high = line.slope_ci95
            values = {name: float(getattr(line, name)) for name in ("slope", "intercept", "n")}
            values |= {"r2": line.curve.r2, "residual_sd": line.curve.residual_sd}
            values |= {"slope_ci_low": low, "slope_ci_high": high, "n_configurations": float(line.sample.n)}
            now = get_current_time_millis()
            metrics = [Metric(key, value, now, 0) for key, value in values.items()]
            codes = ", ".join(item.code for item in cautions(line))
            client.log_batch(run_id, metrics=metrics, tags=[RunTag("drorae.warnings", codes)])
            for path in paths.values():
                client.log_artifact(run_id, str(path))
            client.set_terminated(run_id, "FINISHED")
            ids.append(run_id)
    return ids


def _run_of(client: MlflowClient, experiment_id: str, line: Line, parent_run: str | None) -> str:
    """The id of the run of an earlier fit of the same, or of a run made for this one."""
    from mlflow.entities import ViewType

    x, y = line.sample.x_name, line.sample.y_name
    tags = {"kind": "analysis", "x": x, "y": y, "law": line.law, "unit": line.unit}
    identity = {f"drorae.{name}": value for name, value in tags.items()}
    if parent_run is not None:
        identity["mlflow.parentRunId"] = parent_run
    conditions = " and ".join(f"tags.`{name}` = '{value}'" for name, value in identity.items())
    for run in client.search_runs([experiment_id], conditions, ViewType.ACTIVE_ONLY):
        if parent_run is not None or "mlflow.parentRunId" not in run.data.tags:
            return run.info.run_id
    return client.create_run(experiment_id, tags=identity, run_name=f"fit {y} on {x}").info.run_id


def write_predictions(records: Sequence[Mapping[str, Any]], tracking_uri: str, experiment: str) -> list[str]:
    """Records predictions (`predict.register`) as runs tagged drorae.kind=prediction; returns the run ids.

    Tags: x, y, at and data_sha256, the hash of the data it was made from, each under drorae. Metrics: prediction_low,
    prediction_high. Artifact: prediction.json, the record. A prediction is never written over.

    Raises:
        UserError: mlflow is missing, the store or experiment is not there, or MLflow refuses.
    """
    ids = []
    with _experiment(tracking_uri, experiment, "prediction", "register to a file") as (client, experiment_id):
        for record in records:
            tags = {f"drorae.{name}": str(record[name]) for name in ("x", "y", "at", "data_sha256")}
            name = f"prediction {record['y']} at {record['x']} = {record['at']:g}"
            run = client.create_run(experiment_id, tags={"drorae.kind": "prediction", **tags}, run_name=name)
            client.log_metric(run.info.run_id, "prediction_low", record["envelope"][0])
            client.log_metric(run.info.run_id, "prediction_high", record["envelope"][1])
            client.log_dict(run.info.run_id, dict(record), "prediction.json")
            client.set_terminated(run.info.run_id, "FINISHED")
            ids.append(run.info.run_id)
    return ids

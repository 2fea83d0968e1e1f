"""Writes fits and predictions back to MLflow, one run each, beside the trials they come from."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.inference.analysis import Analysis
from analysis.inference.asked import AskedLaw
from analysis.inference.cautions import cautions
from analysis.table.mlflow import find_experiment, open_store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NEEDS = "writing to MLflow needs mlflow; pip install mlflow, or "
_RECORD = "prediction.json"
_PREDICTIONS = "tags.`drorae.kind` = 'prediction'"


def write_fits(
    analyses: Sequence[Analysis],
    paths: Mapping[str, Path],
    tracking_uri: str,
    experiment: str,
    parent_run: str | None = None,
) -> list[str]:
    """Records each fit as a run tagged drorae.kind=analysis and returns the run ids.

    Metrics: slope, intercept, r2, slope_ci_low, slope_ci_high, residual_sd, n, n_configurations; of a law asked for by
    name or method, law.NAME, law.NAME_ci_low and law.NAME_ci_high of each parameter (finite ones); where trials check
    convergence, convergence.smallest, convergence.largest and convergence.slope, what twice the steps change. Tags:
    law, x, y, unit, warning codes and converged (a verdict, empty without one), each under drorae. Artifacts: the
    report's files. The run of an earlier fit of the same experiment, parent, metric, x, law and unit is written over,
    so that repeating a fit piles nothing up.

    Args:
        analyses: one per metric.
        paths: the report's files by name.
        tracking_uri: of the MLflow store.
        experiment: name of the experiment that holds the trials.
        parent_run: id of the run that the fits are nested in, in its experiment whatever its name; none by default.

    Raises:
        UserError: mlflow is missing, the store or experiment is not there, or MLflow refuses.
    """
    ids = []
    with open_store(tracking_uri, f"{_NEEDS}leave the fit as files", "take the fit") as client:
        # An experiment may have been renamed since its sweep began.
        experiment_id = (
            str(client.get_run(parent_run).info.experiment_id)
            if parent_run is not None
            else find_experiment(client, experiment, tracking_uri)
        )
        from mlflow.entities import Metric, RunTag

        for analysis in analyses:
            line = analysis.line
            run_id = _run_of(client, experiment_id, analysis, parent_run)
            low, high = line.slope_ci95
            values = {name: float(getattr(line, name)) for name in ("slope", "intercept", "n")}
            values |= {"r2": line.curve.r2, "residual_sd": line.curve.residual_sd}
            values |= {"slope_ci_low": low, "slope_ci_high": high, "n_configurations": float(line.sample.n)}
            values |= _asked_values(analysis.asked) | _converged_values(analysis)
            now = int(1000 * time.time())
            metrics = [Metric(key, value, now, 0) for key, value in values.items()]
            told = {
                "warnings": ", ".join(item.code for item in cautions(line)),
                "mark": analysis.selection.mark,
                "converged": "" if analysis.converged is None else analysis.converged.verdict,
            }
            # Empty ones too: an earlier fit of the same may have known less or more of it.
            tags = [RunTag(f"drorae.{name}", text) for name, text in told.items()]
            client.log_batch(run_id, metrics=metrics, tags=tags)
            for path in paths.values():
                client.log_artifact(run_id, str(path))
            client.set_terminated(run_id, "FINISHED")
            ids.append(run_id)
    return ids


def _asked_values(asked: AskedLaw | None) -> dict[str, float]:
    """The parameters of a law asked for and the ends of their intervals, as far as they are finite."""
    if asked is None:
        return {}
    found: dict[str, float] = {}
    for (name, (low, high)), value in zip(asked.intervals.items(), asked.fit.parameters, strict=True):
        found |= {f"law.{name}": float(value), f"law.{name}_ci_low": low, f"law.{name}_ci_high": high}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _converged_values(analysis: Analysis) -> dict[str, float]:
    """What twice the steps change at both ends of the law, and about its slope per decade (or unit)."""
    found = analysis.convergence
    if found is None or not found.ends:
        return {}
    changes = {"convergence.smallest": found.ends[0].change, "convergence.largest": found.ends[-1].change}
    return changes | ({} if found.slope is None else {"convergence.slope": found.slopes[1] - found.slopes[0]})


def _run_of(client: MlflowClient, experiment_id: str, analysis: Analysis, parent_run: str | None) -> str:
    """The id of the run of an earlier fit of the same, or of a run made for this one."""
    from mlflow.entities import ViewType

    line, asked = analysis.line, analysis.asked
    x, y = line.sample.x_name, line.sample.y_name
    law = line.law if asked is None else asked.fit.name + " by Huber's loss" * (asked.resampled is not None)
    tags = {"kind": "analysis", "x": x, "y": y, "law": law, "unit": line.unit}
    identity = {f"drorae.{name}": value for name, value in tags.items()}
    if parent_run is not None:
        identity["mlflow.parentRunId"] = parent_run
    # A filter cannot say a name with an apostrophe, so the fits are compared here.
    page = None
    while page != "":
        found = client.search_runs([experiment_id], "tags.`drorae.kind` = 'analysis'", ViewType.ACTIVE_ONLY,
                                   page_token=page)  # fmt: skip
        for run in found:
            of_same = all(run.data.tags.get(name) == value for name, value in identity.items())
            if of_same and (parent_run is not None or "mlflow.parentRunId" not in run.data.tags):
                return str(run.info.run_id)
        page = found.token or ""
    return str(client.create_run(experiment_id, tags=identity, run_name=f"fit {y} on {x}").info.run_id)


def write_predictions(records: Sequence[Mapping[str, Any]], tracking_uri: str, experiment: str) -> list[str]:
    """Records predictions (`predict.register`) as runs tagged drorae.kind=prediction; returns the run ids.

    Tags: x, y, at and data_sha256, the hash of the data it was made from, each under drorae. Metrics: prediction_low,
    prediction_high. Artifact: prediction.json, the record. A prediction is never written over.

    Raises:
        UserError: mlflow is missing, the store or experiment is not there, or MLflow refuses.
    """
    ids = []
    with open_store(tracking_uri, f"{_NEEDS}register to a file", "take the prediction") as client:
        experiment_id = find_experiment(client, experiment, tracking_uri)
        for record in records:
            tags = {f"drorae.{name}": str(record[name]) for name in ("x", "y", "at", "data_sha256")}
            name = f"prediction {record['y']} at {record['x']} = {record['at']:g}"
            run = client.create_run(experiment_id, tags={"drorae.kind": "prediction", **tags}, run_name=name)
            client.log_metric(run.info.run_id, "prediction_low", record["envelope"][0])
            client.log_metric(run.info.run_id, "prediction_high", record["envelope"][1])
            client.log_dict(run.info.run_id, dict(record), _RECORD)
            client.set_terminated(run.info.run_id, "FINISHED")
            ids.append(run.info.run_id)
    return ids


class Kept(NamedTuple):
    """A prediction that an experiment keeps."""

    experiment: str
    run_id: str
    record: dict[str, Any]


def read_predictions(tracking_uri: str) -> tuple[list[Kept], list[str]]:
    """Returns the predictions that all experiments of a store keep, and the names of all its experiments.

    Predictions stand in the order in which they were registered. Of one whose artifact cannot be read, the record is
    empty.

    Raises:
        UserError: mlflow is missing, the store is not there, or MLflow refuses.
    """
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    found = []
    with (
        open_store(tracking_uri, f"{_NEEDS}register to files", "say what was predicted") as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        names = {str(item.experiment_id): item.name for item in client.search_experiments(ViewType.ACTIVE_ONLY)}
        token = None
        while True:
            order = ["attributes.start_time ASC"]
            page = client.search_runs(list(names), _PREDICTIONS, order_by=order, page_token=token)
            for run in page:
                record: dict[str, Any] = {}
                with contextlib.suppress(MlflowException, OSError, ValueError):
                    path = client.download_artifacts(run.info.run_id, _RECORD, folder)
                    record = json.loads(Path(path).read_text())
                found.append(Kept(names[str(run.info.experiment_id)], str(run.info.run_id), record))
            token = page.token
            if not token:
                return found, list(names.values())

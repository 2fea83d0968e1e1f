"""Trials of an MLflow experiment or of one parent run, as the same table that a sweep writes."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.table.decoders import DECODER
from analysis.table.trackers import status_of
from drorae.errors import UserError
from drorae.metrics.registry import LOOKED_THROUGH
from drorae.redaction import public_address
from drorae.storage.places import follow_store, sqlite_path
from drorae.trial.folder import ROLE, SKIPPED, TrialStatus

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MLFLOW_COLUMNS = {
    "fusion.variant": "variant",
    "fusion.expert_hidden_dim": "expert_hidden_dim",
    "fusion.num_layers": "num_layers",
}

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `drorae ui` shows a local store; links to its runs lead there."""


def read_mlflow(
    tracking_uri: str, experiment: str | None = None, parent_run: str | None = None, filter_string: str = ""
) -> pd.DataFrame:
    """Reads the trials of an MLflow experiment or of one parent run, narrowed by MLflow's own filter string.

    Trials are the runs tagged drorae.kind=trial; where no run has such a tag, all of them. Columns are those of
    a sweep's trials.csv, then the resolved config by dotted name, `run_id`, and `run_url`, the run's page in the
    MLflow UI (of a local store: in `drorae ui`). A run that MLflow does not call finished is never `finished`
    here, whatever its own tag says.

    Args:
        tracking_uri: of the MLflow store.
        experiment: name of the experiment; may be left out where `parent_run` is given.
        parent_run: id of the run that the trials are nested in; all of the experiment by default.
        filter_string: such as "params.`phase2.lr` = '0.001' and metrics.psnr > 20"; no filter by default.

    Raises:
        UserError: neither or an unknown experiment or parent run, a filter MLflow does not understand, a store
            that is not there or does not answer, or no trials.
    """
    if experiment is None and parent_run is None:
        raise UserError("read from MLflow: expected the name of an experiment or the id of a parent run")
    check_store(tracking_uri)
    found = None
    path = sqlite_path(tracking_uri)
    if path is not None and not filter_string.strip():
        found = _read_tables(path, experiment, parent_run)
    experiment_id, runs = found or _ask_mlflow(tracking_uri, experiment, parent_run, filter_string)
    kinds = [run.tags.get("drorae.kind") for run in runs]
    trials = [run for run, kind in zip(runs, kinds, strict=True) if kind == ("trial" if "trial" in kinds else None)]
    if not trials:
        where = (f" that match {filter_string!r}" if filter_string else "") + f" in {tracking_uri}"
        raise UserError(f"{experiment or parent_run}: no trials{where}; expected runs of a drorae sweep")
    remote = tracking_uri.startswith(("http:", "https:"))
    address = f"{public_address(tracking_uri) if remote else LOCAL_UI}/#/experiments/{experiment_id}/runs/"
    frame = _tidy([_trial_row(run) | {"run_url": address + run.run_id} for run in trials])
    frame.attrs["measured"] = sorted({name for run in trials for name in run.metrics})
    return frame


class _Run(NamedTuple):
    """What the analysis takes from an MLflow run."""

    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def _ask_mlflow(
    tracking_uri: str, experiment: str | None, parent_run: str | None, filter_string: str
) -> tuple[str, list[_Run]]:
    """The experiment's id and its runs in order of start, through MLflow's client."""
    conditions = [filter_string] if filter_string.strip() else []
    needs = "reading from MLflow needs mlflow; pip install mlflow, or fit the sweep's trials.csv"
    with open_store(tracking_uri, needs, "answer as expected", filter_string) as client:
        if parent_run is not None:
            experiment_id = client.get_run(parent_run).info.experiment_id
            conditions.append(f"tags.`mlflow.parentRunId` = '{parent_run}'")
        if experiment is not None:
            experiment_id = find_experiment(client, experiment, tracking_uri)
        runs: list[_Run] = []
        token, order = None, ["attributes.start_time ASC"]
        while True:
            page = client.search_runs([experiment_id], " and ".join(conditions), order_by=order, page_token=token)
            for run in page:
                data = run.data
                runs.append(_Run(run.info.run_id, run.info.status, data.params, data.metrics, data.tags))
            token = page.token
            if not token:
                return experiment_id, runs


@contextlib.contextmanager
def open_store(tracking_uri: str, needs: str, expected: str, filter_string: str = "") -> Iterator[MlflowClient]:
    """A client of an MLflow store that is there; what MLflow refuses within becomes a UserError.

    Args:
        tracking_uri: of the store.
        needs: said where mlflow is not installed.
        expected: what MLflow did not do where it refuses.
        filter_string: the filter that MLflow is given within; none by default.
    """
    check_store(tracking_uri)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError(needs) from None
    follow_store(tracking_uri)
    try:
        yield MlflowClient(tracking_uri)
    except MlflowException as error:
        reason = " ".join(str(error).split())
        if filter_string and getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
            raise UserError(
                f"filter {filter_string!r}: MLflow does not understand it ({reason}); "
                "expected such as \"params.`phase2.lr` = '0.001' and metrics.psnr > 20\""
            ) from None
        raise UserError(f"{tracking_uri}: MLflow did not {expected} ({reason})") from None


def find_experiment(client: MlflowClient, experiment: str, tracking_uri: str) -> str:
    """Returns the id of an experiment.

    Raises:
        UserError: there is none of that name; lists those there are.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(sorted(item.name for item in client.search_experiments())) or "none"
        raise UserError(f"{experiment}: no such experiment in {tracking_uri}; experiments there: {names}")
    return str(found.experiment_id)


def _read_tables(path: Path, experiment: str | None, parent_run: str | None) -> tuple[str, list[_Run]] | None:
    """The same straight from the tables of an SQLite store, or None where MLflow itself should be asked.

    MLflow's client makes some 90 objects of every run, which takes longer than everything else the analysis does.
    """
    of_runs, arguments = "experiment_id = ? and lifecycle_stage = 'active'", []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as store:
            if parent_run is not None:
                found = store.execute("select experiment_id from runs where run_uuid = ?", (parent_run,)).fetchone()
                of_runs += " and run_uuid in (select run_uuid from tags where key = 'mlflow.parentRunId' and value = ?)"
                arguments = [parent_run]
            if experiment is not None:
                where = "name = ? and lifecycle_stage = 'active'"
                found = store.execute(f"select experiment_id from experiments where {where}", (experiment,)).fetchone()
            if found is None:
                return None
            arguments = [found[0], *arguments]
            of_all = f"select run_uuid, status from runs where {of_runs} order by start_time, run_uuid"
            runs = {key: _Run(key, status, {}, {}, {}) for key, status in store.execute(of_all, arguments)}
            chosen = f"where run_uuid in (select run_uuid from runs where {of_runs})"
            for table, field in (("params", "params"), ("tags", "tags"), ("latest_metrics", "metrics")):
                value = "case when is_nan then 'nan' else value end" if field == "metrics" else "value"
                rows = store.execute(f"select run_uuid, key, {value} from {table} {chosen}", arguments)
                for key, name, stored in rows:
                    getattr(runs[key], field)[name] = float(stored) if field == "metrics" else stored
    except (sqlite3.Error, KeyError):
        return None
    return str(found[0]), list(runs.values())


def keeps_predictions(tracking_uri: str) -> bool:
    """Returns whether registered predictions may be in a store: of an SQLite file, whether there are any.

    An SQLite store that is not there has none. MLflow is not imported.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return True
    asked = "select 1 from tags where key = 'drorae.kind' and value = 'prediction' limit 1"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as store:
            return store.execute(asked).fetchone() is not None
    except sqlite3.Error:
        return False


def check_store(tracking_uri: str) -> None:
    """Refuses an SQLite store that does not exist, which MLflow would silently create.

    Called before MLflow is imported: also keeps it from phoning home, and from waiting minutes for a dead server.

    Raises:
        UserError: no such database file.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        remedy = "expected the mlflow.db of a sweep, or a server's address"
        raise UserError(f"{tracking_uri}: no such MLflow store; {remedy}")


def _trial_row(run: _Run) -> dict[str, object]:
    row: dict[str, object] = {_MLFLOW_COLUMNS.get(name, name): value for name, value in run.params.items()}
    # In a config 0 stands for all layers; only the trial knows how many those were, and says so as a metric.
    if str(row.get("num_layers")) == "0":
        row["num_layers"] = None
    # MLflow stores infinity as the largest float.
    row |= {name: math.inf if abs(value) > 1e308 else value for name, value in run.metrics.items()}
    status = str(run.tags.get("drorae.status", TrialStatus.FINISHED)).lower()
    row["status"] = status_of(run.status) if status == TrialStatus.FINISHED else status
    row |= {name: run.tags.get(f"drorae.{name}") for name in ("config_hash", "reason")} | {"run_id": run.run_id}
    row[DECODER] = run.tags.get("drorae.fingerprint.phase1_weights", "")[:16] or None
    if skipped := run.tags.get(f"drorae.note.{SKIPPED}"):
        row[SKIPPED] = skipped
    said = {name: run.tags.get(f"drorae.{name}", "") for name in ("tuning", ROLE, LOOKED_THROUGH)}
    return row | {name: value for name, value in said.items() if value}


def _tidy(rows: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    first = ("config_hash", "variant", "expert_hidden_dim", "num_layers", "seed", "status")
    leading = [name for name in first if name in frame.columns]
    frame = frame[leading + sorted(set(frame.columns) - {*leading})]
    counts = frame.columns.intersection(["expert_hidden_dim", "num_layers", "seed"])
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in counts})

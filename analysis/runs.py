"""Tables of runs: read from CSV, parquet or MLflow into one tidy frame, and the rows a fit may use."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drorae.errors import UserError

STATUSES = ("finished", "unconverged", "diverged", "pruned", "failed", "running", "missing")
"""What a trial can be. Only finished ones are fitted unless another is asked for by name."""

X_ALIASES = {
    "params": ("fusion_params_paper", "fusion_params"),
    "capacity": ("expert_hidden_dim",),
    "layers": ("num_layers",),
}
"""Short names of x and the columns they stand for, where the table has no column of that very name."""

_MLFLOW_COLUMNS = {
    "fusion.variant": "variant",
    "fusion.expert_hidden_dim": "expert_hidden_dim",
    "fusion.num_layers": "num_layers",
}
_TEXT_COLUMNS = ("config_hash", "status", "variant", "reason")


@dataclass(frozen=True)
class Selection:
    """The runs a fit uses, and those it does not.

    `used` keeps the table's columns and index; `excluded` holds (row label, reason) in table order.
    `x` and `y` are the numbers of the used rows, in the order of `used`.
    """

    used: pd.DataFrame
    excluded: tuple[tuple[str, str], ...]
    x_name: str
    x_column: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]
    eval_images: int | None
    """Number of images every used value was measured on; None where the table does not say."""
    included: tuple[str, ...] = ()
    """Statuses other than finished that were asked for."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a CSV or parquet table with one row per run.

    Raises:
        UserError: no such file, neither CSV nor parquet, unreadable, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV or parquet table of runs, such as a sweep's trials.csv")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: expected a name ending in .csv or .parquet")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            # A hash such as 12345678e901 is a number to pandas unless told otherwise.
            frame = pd.read_csv(path, dtype={name: str for name in _TEXT_COLUMNS})
    except ImportError:
        raise UserError(
            f"{path}: reading parquet needs pyarrow; pip install pyarrow, or save the table as CSV"
        ) from None
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not readable as a table ({reason}); expected one header line, one row per run"
        ) from None
    frame.columns = [str(name).strip() for name in frame.columns]
    if frame.empty:
        raise UserError(f"{path}: the table has no rows; expected one row per run")
    return frame


def read_mlflow(tracking_uri: str, experiment: str | None = None, parent_run: str | None = None) -> pd.DataFrame:
    """Reads the trials (child runs tagged drorae.kind=trial) of an MLflow experiment or of one parent run.

    Columns are those of a sweep's trials.csv, then the resolved config by dotted name and `run_id`.
    A run that MLflow does not call finished is never `finished` here, whatever its own tag says.

    Raises:
        UserError: neither or an unknown experiment or parent run, a store that is not there or does not answer,
            or no trials.
    """
    if experiment is None and parent_run is None:
        raise UserError("read from MLflow: expected the name of an experiment or the id of a parent run")
    check_store(tracking_uri)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError("reading from MLflow needs mlflow; pip install mlflow, or fit the sweep's trials.csv") from None
    try:
        client = MlflowClient(tracking_uri)
        conditions = ["tags.`drorae.kind` = 'trial'"]
        if parent_run is not None:
            experiment_id = client.get_run(parent_run).info.experiment_id
            conditions.append(f"tags.`mlflow.parentRunId` = '{parent_run}'")
        if experiment is not None:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(item.name for item in client.search_experiments())) or "none"
                raise UserError(f"{experiment}: no such experiment in {tracking_uri}; experiments there: {known}")
            experiment_id = found.experiment_id
        runs, token = [], None
        while True:
            page = client.search_runs(
                [experiment_id],
                filter_string=" and ".join(conditions),
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += list(page)
            token = page.token
            if not token:
                break
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{tracking_uri}: MLflow did not answer as expected ({reason})") from None
    if not runs:
        raise UserError(f"{experiment or parent_run}: no trials in {tracking_uri}; expected runs of a drorae sweep")
    return _tidy([_trial_row(run) for run in runs])


def check_store(tracking_uri: str) -> None:
    """Refuses an SQLite store that does not exist, which MLflow would silently create.

    Called before MLflow is imported: also keeps it from phoning home, and from waiting minutes for a dead server.

    Raises:
        UserError: no such database file.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    prefix = "sqlite:///"
    if tracking_uri.startswith(prefix) and not Path(tracking_uri.removeprefix(prefix)).is_file():
        raise UserError(
            f"{tracking_uri}: no such MLflow store; expected the mlflow.db of a sweep, or a server's address"
        )


def _trial_row(run: object) -> dict[str, object]:
    data, info = run.data, run.info  # type: ignore[attr-defined]
    row: dict[str, object] = {}
    for name, value in data.params.items():
        row[_MLFLOW_COLUMNS.get(name, name)] = value
    # In a config 0 stands for all layers; only the trial knows how many those were, and says so as a metric.
    if str(row.get("num_layers")) == "0":
        row["num_layers"] = None
    # MLflow stores infinity as the largest float.
    row |= {name: math.inf if abs(value) > 1e308 else value for name, value in data.metrics.items()}
    tag = str(data.tags.get("drorae.status", "finished")).lower()
    fallback = {"RUNNING": "running", "SCHEDULED": "running", "FAILED": "failed", "KILLED": "failed"}
    ended = fallback.get(info.status)
    row["status"] = ended if ended and tag == "finished" else tag
    row["config_hash"] = data.tags.get("drorae.config_hash")
    row["reason"] = data.tags.get("drorae.reason")
    row["run_id"] = info.run_id
    return row


def _tidy(rows: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    first = [
        name
        for name in ("config_hash", "variant", "expert_hidden_dim", "num_layers", "seed", "status")
        if name in frame.columns
    ]
    frame = frame[first + sorted(name for name in frame.columns if name not in first)]
    for name in ("expert_hidden_dim", "num_layers", "seed"):
        if name in frame.columns:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def find_column(frame: pd.DataFrame, name: str, aliases: Iterable[str] = ()) -> str:
    """The column called `name`, or the first of its aliases that the table has.

    Raises:
        UserError: none of them; names the nearest columns and lists all.
    """
    for candidate in (name, *aliases):
        if candidate in frame.columns:
            return candidate
    columns = [str(item) for item in frame.columns]
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    listed = [item for item in columns if "." not in item]
    raise UserError(f"{name}: no such column{hint}{'' if near else ';'} columns: {', '.join(listed)}")


def select(frame: pd.DataFrame, x: str, y: str, include: Iterable[str] = (), log: bool = True) -> Selection:
    """The rows that a fit of `y` on `x` may use, and why each other one may not.

    Left out, by name: a status other than finished unless `include` names it; x or y missing, not a number or
    not finite; x not positive where `log`; a config_hash that an earlier used row has. A table without a status
    column counts as finished.

    Raises:
        UserError: no such column or status, used rows measured on different numbers of images (the Frechet
            distance depends on that number), or nothing left.
    """
    include = tuple(include)
    for name in include:
        if name not in STATUSES:
            raise UserError(f"include {name}: no such status; statuses: {', '.join(STATUSES)}")
    x_column = find_column(frame, x, X_ALIASES.get(x, ()))
    find_column(frame, y)
    allowed = {"finished", *include}
    x_values = pd.to_numeric(frame[x_column], errors="coerce").to_numpy(dtype=float)
    y_values = pd.to_numeric(frame[y], errors="coerce").to_numpy(dtype=float)
    statuses = _texts(frame, "status")
    hashes = _texts(frame, "config_hash")
    notes = _texts(frame, "reason")
    seen: dict[str, str] = {}
    kept: list[int] = []
    labels: list[str] = []
    excluded: list[tuple[str, str]] = []
    for i in range(len(frame)):
        label = f"row {i + 1}" + (f" ({hashes[i]})" if hashes[i] else "")
        status = statuses[i].lower() if "status" in frame.columns else "finished"
        reason = ""
        if status not in allowed:
            reason = f"status {status or 'empty'}" + (f": {notes[i]}" if notes[i] else "")
        elif not np.isfinite(x_values[i]):
            reason = f"{x_column} is missing, not a number or not finite"
        elif not np.isfinite(y_values[i]):
            reason = f"{y} is missing, not a number or not finite"
        elif log and x_values[i] <= 0:
            reason = f"{x_column} is {x_values[i]:g}, which has no logarithm"
        elif hashes[i] and hashes[i] in seen:
            reason = f"same config_hash as {seen[hashes[i]]}"
        if reason:
            excluded.append((label, reason))
            continue
        if hashes[i]:
            seen[hashes[i]] = label
        kept.append(i)
        labels.append(label)
    if not kept:
        raise UserError(
            f"{y} on {x}: none of {len(frame)} rows can be used ({_commonest(excluded)}); "
            "expected finished runs with both numbers"
        )
    used = frame.iloc[kept]
    return Selection(
        used, tuple(excluded), x, x_column, y, x_values[kept], y_values[kept], tuple(labels),
        _one_eval_images(used, y), include,
    )  # fmt: skip


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    if column not in frame.columns:
        return [""] * len(frame)
    return ["" if pd.isna(value) else str(value).strip() for value in frame[column]]


def _commonest(excluded: list[tuple[str, str]]) -> str:
    counts = pd.Series([reason for _, reason in excluded]).value_counts()
    return f"{counts.iloc[0]} x {counts.index[0]}"


def _one_eval_images(used: pd.DataFrame, y: str) -> int | None:
    if "eval_images" not in used.columns:
        return None
    counts = pd.to_numeric(used["eval_images"], errors="coerce").dropna().astype(int).value_counts().sort_index()
    if len(counts) > 1:
        listed = ", ".join(f"{number} ({rows} rows)" for number, rows in counts.items())
        raise UserError(
            f"{y}: rows measured on different eval_images, {listed}; "
            "expected one number: the Frechet distance depends on it; keep the rows of one"
        )
    return int(counts.index[0]) if len(counts) else None

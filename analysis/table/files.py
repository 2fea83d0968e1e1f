"""Tables of runs: read from CSV, parquet or MLflow into one tidy frame, and the rows a fit may use."""

from __future__ import annotations

import contextlib
import csv
import difflib
import math
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.table.selection import check_measurements, sample_column
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
_TEXT_COLUMNS = ("config_hash", "status", "variant", "reason", "run_id")

ROLES: Mapping[str, str] = {
    "id": "config_hash",
    "seed": "seed",
    "n": "eval_images",
    "status": "status",
    "variant": "variant",
    "reason": "reason",
}
"""What a column may be for, and the name under which the analysis looks for it."""

UNITS: Mapping[str, float] = {"1": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}
"""Units a column of numbers may stand in, and what each is worth."""

CONFIGURATION_COLUMNS = ("variant", "expert_hidden_dim", "num_layers")
"""Columns that, beside x and every dotted config column, tell one configuration from another."""

_SQLITE = "sqlite:///"

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `drorae ui` shows a local store; links to its runs lead there."""


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
    pruned: pd.DataFrame | None = None
    """Rows of runs that a scheduler stopped early, if any were left out; of a tuned sweep none, as its best decide."""

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The seed of every used row as text; empty where the table has none."""
        if "seed" not in self.used.columns:
            return ("",) * len(self.used)
        column = self.used["seed"]
        return tuple(
            "" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value) for value in column
        )

    @cached_property
    def configurations(self) -> np.ndarray:
        """Number of the configuration of every used row, in order of first appearance, shape (rows,).

        Rows of one configuration agree in x, `CONFIGURATION_COLUMNS` and every dotted config column, and so
        differ in seed alone. Without seeds every row is one of its own.
        """
        if not any(self.seeds):
            return np.arange(len(self.x))
        columns = [name for name in CONFIGURATION_COLUMNS if name in self.used.columns]
        columns += [name for name in self.used.columns if "." in str(name) and name not in columns]
        columns = [name for name in columns if self.used[name].nunique(dropna=False) > 1]
        keys = pd.DataFrame({name: self.used[name].astype(str).to_numpy() for name in columns})
        keys["x"] = self.x
        return keys.groupby(list(keys.columns), sort=False, dropna=False).ngroup().to_numpy()


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
            _check_csv(path)
            # A hash such as 12345678e901 is a number to pandas unless told otherwise.
            frame = pd.read_csv(path, dtype={name: str for name in _TEXT_COLUMNS}, encoding="utf-8-sig")
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


def _check_csv(path: Path) -> None:
    """Refuses what pandas would read without a word as something else than it is."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            rows = csv.reader(stream)
            header = [name.strip() for name in next(rows, [])]
            for row in rows:
                if len(row) > len(header):
                    raise UserError(
                        f"{path}: line {rows.line_num} has {len(row)} cells under {len(header)} column names; "
                        'expected one per column; write a cell with a comma in quotes, as "1,5"'
                    )
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise UserError(
            f"{path}: columns separated by {'semicolons' if ';' in header[0] else 'tabs'}; "
            "expected commas, and points in decimal numbers; save the table as comma-separated"
        )
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]}; expected each name once; rename one of them")


def prepare(
    frame: pd.DataFrame,
    where: Iterable[str] = (),
    roles: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A table as the analysis wants it: columns under the names of their roles, plain units, the rows asked for.

    where: COLUMN=VALUE or COLUMN=VALUE,VALUE; rows must match all. roles: role (`ROLES`) to the column that has
    it. units: column to the unit its numbers stand in (`UNITS`), so that a column of millions becomes plain
    numbers. Rows keep their index, and so their number in every list of exclusions; `attrs["where"]` says what
    was kept.

    Raises:
        UserError: an unknown role, unit or column, a role's name already taken, or no row that matches.
    """
    for role, column in (roles or {}).items():
        if role not in ROLES:
            raise UserError(f"role {role}: no such role; roles: {', '.join(ROLES)}")
        found, name = find_column(frame, column), ROLES[role]
        if found != name and name in frame.columns:
            raise UserError(
                f"role {role}={column}: the table has a column {name} already; expected one; rename or drop it"
            )
        frame = frame.rename(columns={found: name})
    for column, unit in (units or {}).items():
        found = find_column(frame, column, X_ALIASES.get(column, ()))
        if unit not in UNITS:
            raise UserError(f"units {column}={unit}: no such unit; units: {', '.join(UNITS)}")
        frame = frame.assign(**{found: pd.to_numeric(frame[found], errors="coerce") * UNITS[unit]})
    kept_of = []
    for condition in where:
        column, equals, text = condition.partition("=")
        if not equals or not column:
            raise UserError(f"where {condition}: expected COLUMN=VALUE, such as variant=energy")
        found = find_column(frame, column.strip(), X_ALIASES.get(column.strip(), ()))
        wanted = [item.strip() for item in text.split(",")]
        matches = [any(_same(value, item) for item in wanted) for value in frame[found]]
        if not any(matches):
            values = list(dict.fromkeys(_text(value) for value in frame[found]))
            listed = ", ".join(values[:8]) + (" ..." if len(values) > 8 else "")
            raise UserError(f"where {condition}: no row of {len(frame)} matches; {found} is {listed}")
        kept_of.append(f"{condition} ({sum(matches)} of {len(frame)} rows)")
        frame = frame[matches]
    if kept_of:
        frame.attrs["where"] = kept_of
    return frame


def _same(value: object, text: str) -> bool:
    if _text(value) == text:
        return True
    try:
        return float(value) == float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def read_mlflow(
    tracking_uri: str, experiment: str | None = None, parent_run: str | None = None, filter_string: str = ""
) -> pd.DataFrame:
    """Reads the trials of an MLflow experiment or of one parent run, narrowed by MLflow's own filter string.

    Trials are the runs tagged drorae.kind=trial; where no run has such a tag, all of them. Columns are those of
    a sweep's trials.csv, then the resolved config by dotted name, `run_id`, and `run_url`, the run's page in the
    MLflow UI (of a local store: in `drorae ui`). A run that MLflow does not call finished is never `finished`
    here, whatever its own tag says.

    filter_string: such as "params.`phase2.lr` = '0.001' and metrics.psnr > 20".

    Raises:
        UserError: neither or an unknown experiment or parent run, a filter MLflow does not understand, a store
            that is not there or does not answer, or no trials.
    """
    if experiment is None and parent_run is None:
        raise UserError("read from MLflow: expected the name of an experiment or the id of a parent run")
    check_store(tracking_uri)
    found = None
    if tracking_uri.startswith(_SQLITE) and not filter_string.strip():
        found = _read_tables(Path(tracking_uri.removeprefix(_SQLITE)), experiment, parent_run)
    experiment_id, runs = found or _ask_mlflow(tracking_uri, experiment, parent_run, filter_string)
    kinds = [run.tags.get("drorae.kind") for run in runs]
    trials = [run for run, kind in zip(runs, kinds, strict=True) if kind == ("trial" if "trial" in kinds else None)]
    if not trials:
        narrowed = f" that match {filter_string!r}" if filter_string else ""
        raise UserError(
            f"{experiment or parent_run}: no trials{narrowed} in {tracking_uri}; expected runs of a drorae sweep"
        )
    remote = tracking_uri.startswith(("http:", "https:"))
    address = f"{tracking_uri.rstrip('/') if remote else LOCAL_UI}/#/experiments/{experiment_id}/runs/"
    return _tidy([_trial_row(run) | {"run_url": address + run.run_id} for run in trials])


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
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError("reading from MLflow needs mlflow; pip install mlflow, or fit the sweep's trials.csv") from None
    conditions = [filter_string] if filter_string.strip() else []
    try:
        client = MlflowClient(tracking_uri)
        if parent_run is not None:
            experiment_id = client.get_run(parent_run).info.experiment_id
            conditions.append(f"tags.`mlflow.parentRunId` = '{parent_run}'")
        if experiment is not None:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(item.name for item in client.search_experiments())) or "none"
                raise UserError(f"{experiment}: no such experiment in {tracking_uri}; experiments there: {known}")
            experiment_id = found.experiment_id
        runs: list[_Run] = []
        token = None
        while True:
            page = client.search_runs(
                [experiment_id],
                filter_string=" and ".join(conditions),
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += [
                _Run(run.info.run_id, run.info.status, run.data.params, run.data.metrics, run.data.tags) for run in page
            ]
            token = page.token
            if not token:
                return experiment_id, runs
    except MlflowException as error:
        reason = " ".join(str(error).split())
        if filter_string and getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
            raise UserError(
                f"filter {filter_string!r}: MLflow does not understand it ({reason}); "
                "expected such as \"params.`phase2.lr` = '0.001' and metrics.psnr > 20\""
            ) from None
        raise UserError(f"{tracking_uri}: MLflow did not answer as expected ({reason})") from None


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
                found = store.execute(
                    "select experiment_id from experiments where name = ? and lifecycle_stage = 'active'", (experiment,)
                ).fetchone()
            if found is None:
                return None
            arguments = [found[0], *arguments]
            runs = {
                key: _Run(key, status, {}, {}, {})
                for key, status in store.execute(
                    f"select run_uuid, status from runs where {of_runs} order by start_time, run_uuid", arguments
                )
            }
            chosen = f"where run_uuid in (select run_uuid from runs where {of_runs})"
            # Most of a config is the same in every run, and then said once.
            same: dict[str, str] = {}
            different: list[str] = []
            for name, low, high, count in store.execute(
                f"select key, min(value), max(value), count(*) from params {chosen} group by key", arguments
            ):
                if low == high and count == len(runs):
                    same[name] = low
                else:
                    different.append(name)
            for run in runs.values():
                run.params.update(same)
            marks = ",".join("?" * len(different))
            for key, name, value in store.execute(
                f"select run_uuid, key, value from params {chosen} and key in ({marks})", [*arguments, *different]
            ):
                runs[key].params[name] = value
            for key, name, value in store.execute(f"select run_uuid, key, value from tags {chosen}", arguments):
                runs[key].tags[name] = value
            for key, name, value, nan in store.execute(
                f"select run_uuid, key, value, is_nan from latest_metrics {chosen}", arguments
            ):
                runs[key].metrics[name] = math.nan if nan else value
    except (sqlite3.Error, KeyError):
        return None
    return str(found[0]), list(runs.values())


def check_store(tracking_uri: str) -> None:
    """Refuses an SQLite store that does not exist, which MLflow would silently create.

    Called before MLflow is imported: also keeps it from phoning home, and from waiting minutes for a dead server.

    Raises:
        UserError: no such database file.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    if tracking_uri.startswith(_SQLITE) and not Path(tracking_uri.removeprefix(_SQLITE)).is_file():
        raise UserError(
            f"{tracking_uri}: no such MLflow store; expected the mlflow.db of a sweep, or a server's address"
        )


def _trial_row(run: _Run) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, value in run.params.items():
        row[_MLFLOW_COLUMNS.get(name, name)] = value
    # In a config 0 stands for all layers; only the trial knows how many those were, and says so as a metric.
    if str(row.get("num_layers")) == "0":
        row["num_layers"] = None
    # MLflow stores infinity as the largest float.
    row |= {name: math.inf if abs(value) > 1e308 else value for name, value in run.metrics.items()}
    tag = str(run.tags.get("drorae.status", "finished")).lower()
    fallback = {"RUNNING": "running", "SCHEDULED": "running", "FAILED": "failed", "KILLED": "failed"}
    ended = fallback.get(run.status)
    row["status"] = ended if ended and tag == "finished" else tag
    row["config_hash"] = run.tags.get("drorae.config_hash")
    row["reason"] = run.tags.get("drorae.reason")
    row["run_id"] = run.run_id
    if "drorae.tuning" in run.tags:
        row["tuning"] = run.tags["drorae.tuning"]
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
    not finite; a run of a tuned sweep that is not the best of its size; x not positive where `log`; no number of
    evaluation images where other rows have one; a config_hash or run_id that an earlier used row has; a row that
    states its seed and is the copy of an earlier one. A table without a status column counts as finished.

    Raises:
        UserError: no such column or status, x and y the same column, a column without numbers, nothing left, or
            used rows that do not measure the same thing (`analysis.table.selection.check_measurements`).
    """
    include = tuple(include)
    for name in include:
        if name not in STATUSES:
            raise UserError(f"include {name}: no such status; statuses: {', '.join(STATUSES)}")
    x_column = find_column(frame, x, X_ALIASES.get(x, ()))
    find_column(frame, y)
    if x_column == y:
        raise UserError(f"{y} on {x}: both are the column {y}; expected a size for x and a metric for y")
    allowed = {"finished", *include}
    x_values, y_values = _numbers(frame, x_column), _numbers(frame, y)
    sample = sample_column(frame, y)
    counts = None if sample is None else pd.to_numeric(frame[sample], errors="coerce").to_numpy(dtype=float)
    some_counted = counts is not None and bool(np.isfinite(counts).any())
    statuses, notes = _texts(frame, "status"), _texts(frame, "reason")
    hashes, run_ids = _texts(frame, "config_hash"), _texts(frame, "run_id")
    roles = _texts(frame, "tuning")
    tuned = any("best" in role for role in roles)
    copies = _copies(frame)
    seen: dict[str, str] = {}
    kept: list[int] = []
    labels: list[str] = []
    excluded: list[tuple[str, str]] = []
    numbered = frame.index.is_unique and pd.api.types.is_integer_dtype(frame.index)
    for i in range(len(frame)):
        number = int(frame.index[i]) + 1 if numbered else i + 1
        name = hashes[i] or run_ids[i][:8]
        label = f"row {number}" + (f" ({name})" if name else "")
        status = statuses[i].lower() if "status" in frame.columns else "finished"
        earlier = next((key for key in (hashes[i], run_ids[i], copies[i]) if key and key in seen), "")
        reason = ""
        if status not in allowed:
            reason = f"status {status or 'empty'}" + (f": {notes[i]}" if notes[i] else "")
        elif tuned and "best" not in roles[i]:
            reason = "tried while tuning; another run of this size was better"
        elif not np.isfinite(x_values[i]):
            reason = f"{x_column} is {_bad_cell(frame[x_column].iloc[i])}"
        elif not np.isfinite(y_values[i]):
            reason = f"{y} is {_bad_cell(frame[y].iloc[i])}"
        elif log and x_values[i] <= 0:
            reason = f"{x_column} is {x_values[i]:g}, which has no logarithm"
        elif some_counted and counts is not None and not np.isfinite(counts[i]):
            reason = f"{sample} is {_bad_cell(frame[str(sample)].iloc[i])}, and other rows have it"
        elif earlier:
            what = {hashes[i]: "same config_hash as", run_ids[i]: "same run_id as"}.get(earlier, "a copy of")
            reason = f"{what} {seen[earlier]}"
        if reason:
            excluded.append((label, reason))
            continue
        seen |= {key: label for key in (hashes[i], run_ids[i], copies[i]) if key}
        kept.append(i)
        labels.append(label)
    if not kept:
        raise UserError(
            f"{y} on {x}: none of {len(frame)} rows can be used ({_commonest(excluded)}); "
            "expected finished runs with both numbers"
        )
    used = frame.iloc[kept]
    check_measurements(used, y)
    images = None if counts is None or not some_counted else int(counts[kept[0]])
    stopped = [i for i in range(len(frame)) if statuses[i].lower() == "pruned" and "pruned" not in allowed]
    return Selection(
        used,
        tuple(excluded),
        x,
        x_column,
        y,
        x_values[kept],
        y_values[kept],
        tuple(labels),
        images,
        include,
        frame.iloc[stopped] if stopped and not tuned else None,
    )


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)
    texts = [value for value in frame[column] if isinstance(value, str)]
    if len(texts) == len(frame) and not np.isfinite(values).any():
        comma = all("," in text and text.replace(",", "", 1).strip(" +-").isdigit() for text in texts)
        remedy = "write decimals with a point" if comma else "name another column, or clean this one"
        raise UserError(f"{column}: no cell is a number (the first is {texts[0]!r}); {remedy}")
    return values


def _bad_cell(value: object) -> str:
    text = _text(value)
    if not text or text.lower() == "nan":
        return "missing"
    return f"{text}, not finite" if text.lower().strip("+-") in ("inf", "infinity") else f"{text!r}, not a number"


def _copies(frame: pd.DataFrame) -> list[str]:
    """A key per row that rows with a stated seed share with their exact copies; empty where no seed is stated."""
    seeds = _texts(frame, "seed")
    if not any(seeds) or all(_texts(frame, "config_hash")):
        # A hash, where every row has one, tells copies already.
        return [""] * len(frame)
    first = frame.drop(columns=["run_id", "run_url"], errors="ignore").astype(str)
    groups = first.groupby(list(first.columns), sort=False, dropna=False).ngroup()
    return [f"copy {group}" if seed else "" for group, seed in zip(groups, seeds, strict=True)]


def _texts(frame: pd.DataFrame, column: str) -> list[str]:
    if column not in frame.columns:
        return [""] * len(frame)
    cells = frame[column]
    return [str(value).strip() for value in cells.astype(object).where(cells.notna(), "")]


def _commonest(excluded: list[tuple[str, str]]) -> str:
    reason, count = Counter(reason for _, reason in excluded).most_common(1)[0]
    return f"{count} x {reason}"

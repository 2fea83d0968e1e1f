"""Records sweeps and trials in MLflow. The only file that writes there, `analysis/tracking.py` apart.

A sweep is an experiment with one parent run and one child run per trial, found again by its config hash. Recording
never fails a trial: what a store does not take is kept in the trial's `spool.jsonl` and sent later.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from zipfile import BadZipFile

from drorae.config import TrialConfig, config_hash, flatten
from drorae.errors import UserError, brief
from drorae.metrics.registry import better
from drorae.storage.files import json_rows, write_atomic
from drorae.storage.places import default_tracking_uri
from drorae.trial.folder import read_outcome
from sweeps.folder.table import COLUMNS, trial_row
from sweeps.tracking.charts import TAG, shared_view, view_address
from sweeps.tracking.pictures import draw_pictures

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 5.0
"""Metrics are sent together, at most this often."""
BACK_OFF_SECONDS = 60.0
"""After a store did not answer, the next attempt waits this long, doubled each time up to ten times as long."""
AWAIT_SECONDS = 2.0
"""Between two looks at a store that is waited for."""
SPOOL_ROWS = 20_000
"""Rows that wait for a store that is away, some 5 MB; beyond, every second one is dropped."""
PAGE_RUNS = 100
"""Runs that are read at once: MLflow takes some 0.2 MB for each while it reads."""
PREFIX = "train/"
"""Before the names of step metrics, so that a final metric such as l1 is never mistaken for one."""
INSPECTION = "inspection/"
"""Before the names of the numbers in inspection.json."""
DIGEST = "drorae.digest"
"""Tag of a run that has everything of its trial: the digest of the outcome that was recorded."""
HISTORY = "history.jsonl"
ARTIFACTS = ("config.json", "result.json", "per_image.npz", HISTORY, "inspection.json", "inspection.npz")
RUN_STATUS = {"pruned": "KILLED", "failed": "FAILED", "missing": "KILLED"}
"""MLflow's status of a run that has ended, by the trial's own; any other trial is FINISHED."""

_RAISED = {
    "mlflow.exceptions": ("MlflowException",),
    "sqlalchemy.exc": ("SQLAlchemyError",),
    "alembic.util.exc": ("CommandError",),
    "urllib3.exceptions": ("HTTPError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "boto3.exceptions": ("Boto3Error",),
    "google.api_core.exceptions": ("GoogleAPIError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""What the libraries below MLflow's client raise, where it is neither an OSError nor MLflow's own."""

Warn = Callable[[str], None]


def store_errors() -> tuple[type[Exception], ...]:
    """What MLflow's client raises where a store is away, cannot be used or refuses; any other error is a bug.

    Asked for when an error is there, because only libraries that are imported can have raised it. A proxy that answers
    for a server that is away sends no JSON; a store may need a driver that is not installed.
    """
    loaded = [(sys.modules[module], names) for module, names in _RAISED.items() if module in sys.modules]
    others = [getattr(module, name) for module, names in loaded for name in names]
    return (OSError, ImportError, json.JSONDecodeError, *others)


def import_client() -> type[MlflowClient]:
    """MLflow's client, with bounded waits and without telemetry (unless the environment says otherwise).

    Raises:
        UserError: mlflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Unset, MLflow blocks for four minutes on a server that is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # The address of every run that ends, on stdout, where results are.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise UserError("recording runs needs mlflow; pip install mlflow") from None
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient


def open_client(uri: str) -> MlflowClient:
    """An MLflow client; to a store that is a database it connects at once.

    Raises:
        UserError: mlflow is not installed.
    """
    return import_client()(uri)


def resolve_uri(uri: str | None, root: Path) -> str:
    """The tracking URI to use: the given one, else MLFLOW_TRACKING_URI, else `mlflow.db` in the sweeps' root.

    Paths become absolute, because a trial runs in another working directory.

    Raises:
        UserError: the URI holds a password, which logs, errors and workers' arguments would show.
    """
    chosen = uri or default_tracking_uri(root)
    if urlsplit(chosen).password:
        raise UserError(
            f"MLflow at {urlsplit(chosen).hostname}: the address holds a password, which logs would show; put it into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the driver and every node"
        )
    prefix = "sqlite:///"
    if chosen.startswith(prefix):
        path = Path(chosen.removeprefix(prefix)).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        return f"{prefix}{path}"
    return chosen


def check_nodes(uri: str, addresses: Iterable[str]) -> None:
    """Refuses an SQLite store for workers on several machines: its locks hold on one only, and its file is elsewhere.

    Raises:
        UserError: it is one, and there are several addresses of nodes.
    """
    machines = sorted(set(addresses))
    if uri.startswith("sqlite:") and len(machines) > 1:
        raise UserError(
            f"MLflow at {uri}: an SQLite file cannot be written from {len(machines)} machines ({', '.join(machines)}); "
            "start `mlflow server` and name it in MLFLOW_TRACKING_URI"
        )


@dataclass(frozen=True)
class RunAddress:
    """Where a sweep's trials are recorded: everything a worker needs to find or create its run."""

    tracking_uri: str
    experiment_id: str
    parent_run_id: str


class TrialTracker:
    """Records one trial: rows while it trains, everything else when it ends.

    Steps are counted through phases 2 and 3 (phase 3 goes on where phase 2 ended), and a step that the store
    has is not sent again, so that resuming and replaying add nothing twice. No method raises because the store
    is away.
    """

    def __init__(
        self, address: RunAddress, config: TrialConfig, directory: Path, warn: Warn = lambda line: None
    ) -> None:
        self.address = address
        self.config = config
        self.hash = config_hash(config)
        self.directory = directory
        self.spool = directory / "spool.jsonl"
        self.warn = warn
        # Here rather than with the client, which another thread than the importing one may be the first to use.
        import_client()
        self._run_id = ""
        self._sent: set[int] = set()
        self._pending: dict[int, dict[str, Any]] = {}
        self._phase = ""
        self._offset = 0
        self._last_step = 0
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        self._back_off = 0.0
        self._said: set[str] = set()
        self._load_spool()

    @functools.cached_property
    def _client(self) -> MlflowClient:
        """Opened when first used, because a database that is away would raise."""
        return open_client(self.address.tracking_uri)

    def report(self, row: Mapping[str, float | str]) -> None:
        """Takes a reported row. Rows without step and loss, and those of phase 1 (shared, not the trial's), pass."""
        self._take(row, int(time.time() * 1000))
        if time.monotonic() >= self._next_flush:
            self.flush()

    def flush(self) -> bool:
        """Sends what is pending; what the store does not take goes to the spool. True when nothing is left."""
        if self._attempt(self._send_pending):
            self.spool.unlink(missing_ok=True)
            self._next_flush = time.monotonic() + FLUSH_SECONDS
            return True
        self._write_spool()
        return False

    def start(self) -> bool:
        """Finds or creates the run and marks it RUNNING. False when the store is away."""

        def mark() -> None:
            self._client.set_tag(self._run_id, "drorae.status", "running")
            self._client.update_run(self._run_id, status="RUNNING")

        return self._attempt(mark)

    def finish(self) -> bool:
        """Records the outcome found in the trial's folder and ends the run. True when the store has everything.

        Safe to repeat: nothing is recorded twice. What differs from the outcome is recorded again.
        """
        outcome = read_outcome(self.directory)
        rows = read_history(self.directory)
        if rows:
            self._phase, self._offset, self._last_step = "", 0, 0
            # The same whoever sends them: MLflow takes a value that it has, time and all, once only.
            ended = int((self.directory / HISTORY).stat().st_mtime * 1000)
            for row in rows:
                self._take(row, ended)
        self._next_flush = time.monotonic()  # a last attempt, however short ago the store was away

        def send() -> None:
            self._send_pending()
            self._send_outcome(outcome)

        if self._attempt(send):
            self.spool.unlink(missing_ok=True)
            return True
        self._write_spool()
        return False

    def _take(self, row: Mapping[str, float | str], now: int) -> None:
        phase = str(row.get("phase", ""))
        if "step" not in row or "loss" not in row or phase == "phase1":
            return
        if phase != self._phase:
            self._phase, self._offset = phase, self._last_step
        step = self._offset + int(float(row["step"]))
        self._last_step = max(self._last_step, step)
        if step in self._sent or step in self._pending:
            return
        values = {name: value for name, value in row.items() if isinstance(value, int | float)}
        for name in ("step", "total_steps"):
            values.pop(name, None)
        self._pending[step] = {"step": step, "time": now, "values": values}

    def _load_spool(self) -> None:
        if self.spool.is_file():
            self._pending = {entry["step"]: entry for entry in json_rows(self.spool.read_bytes())}

    def _write_spool(self) -> None:
        if not self._pending:
            return
        if len(self._pending) > SPOOL_ROWS:
            # The law needs none of them, and the history keeps them all: every second one goes.
            for step in sorted(self._pending)[1:-1:2]:
                self._pending.pop(step)
            away = f"MLflow at {self.address.tracking_uri} was away for {SPOOL_ROWS} rows"
            self._say("thinned", f"{away}; the spool is thinned out")
        text = "".join(json.dumps(entry) + "\n" for entry in self._pending.values())
        try:
            write_atomic(self.spool, text.encode())
        except OSError as error:
            self._say("spool", f"{self.spool}: not written ({error.strerror}); its rows wait in memory")

    def _say(self, what: str, line: str) -> None:
        """Warns of each kind of thing once."""
        if what not in self._said:
            self._said.add(what)
            with contextlib.suppress(OSError):
                self.warn(line)

    def _attempt(self, action: Callable[[], Any]) -> bool:
        """Runs an action on the found run; after a failure everything is looked up afresh, later."""
        if self._back_off and time.monotonic() < self._next_flush:
            return False
        try:
            if not self._run_id:
                self._open_run()
            action()
        except store_errors() as error:
            self._run_id = ""
            self._back_off = min(max(2 * self._back_off, BACK_OFF_SECONDS), 10 * BACK_OFF_SECONDS)
            self._next_flush = time.monotonic() + self._back_off
            reason = brief(error)
            self._say("away", f"MLflow at {self.address.tracking_uri} does not answer ({reason}); kept for later")
            return False
        self._back_off = 0.0
        return True

    def _open_run(self) -> None:
        from mlflow.entities import Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_USER

        address = self.address
        filters = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{address.parent_run_id}' and tags.`drorae.config_hash` = '{self.hash}'"
        )
        order = ["attributes.start_time ASC"]
        found = self._client.search_runs([address.experiment_id], filters, max_results=1, order_by=order)
        if found:
            run = found[0]
        else:
            tags = {
                MLFLOW_PARENT_RUN_ID: address.parent_run_id,
                MLFLOW_USER: os.environ.get("USER", "drorae"),
                MLFLOW_RUN_NAME: run_name(self.config),
                "drorae.kind": "trial",
                "drorae.config_hash": self.hash,
                "drorae.status": "running",
            }
            run = self._client.create_run(address.experiment_id, tags=tags)
        params = {name: _param(value) for name, value in flatten(self.config).items()}
        missing = [Param(name, value) for name, value in params.items() if name not in run.data.params]
        for start in range(0, len(missing), 100):  # the most that one batch takes
            self._client.log_batch(run.info.run_id, params=missing[start : start + 100])
        history = self._client.get_metric_history(run.info.run_id, f"{PREFIX}loss") if found else []
        self._sent = {metric.step for metric in history}
        self._run_id = run.info.run_id

    def _send_pending(self) -> None:
        from mlflow.entities import Metric

        batch: list[Metric] = []
        steps: list[int] = []

        def send() -> None:
            self._client.log_batch(self._run_id, metrics=batch)
            for step in steps:
                self._sent.add(step)
                self._pending.pop(step)
            batch.clear()
            steps.clear()

        for step in sorted(self._pending):
            if step in self._sent:
                self._pending.pop(step)
                continue
            entry = self._pending[step]
            metrics = [Metric(PREFIX + name, value, entry["time"], step) for name, value in entry["values"].items()]
            if len(batch) + len(metrics) > 1000:
                send()
            batch += metrics
            steps.append(step)
        if batch:
            send()

    def _send_outcome(self, outcome: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        status, digest = str(outcome["status"]), _digest(outcome)
        final = _numbers(trial_row(self.config, self.directory))
        if status == "missing":
            final = {}
        elif final.get("fusion_params", 0) > 0:
            final["log10_params"] = math.log10(final["fusion_params"])
        if "train_seconds" in final:
            final["wall_seconds"] = final["train_seconds"] + final.get("eval_seconds", 0.0)
        final |= {INSPECTION + name: value for name, value in read_inspection(self.directory).items()}
        run = self._client.get_run(self._run_id)
        # A measure of the trial before it was made again, which the table has no more.
        gone = [name for name in run.data.metrics if name not in final and _is_measure(name)]
        changed = log_metrics(self._client, run, dict.fromkeys(gone, math.nan) | final)
        tags = {"drorae.status": status, "drorae.reason": str(outcome.get("reason", ""))}
        tags |= {f"drorae.{name}": str(value) for name, value in outcome.get("provenance", {}).items()}
        if "drorae.git_commit" in tags:
            tags["mlflow.source.git.commit"] = tags["drorae.git_commit"]
        self._client.log_batch(self._run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        ended, known = RUN_STATUS.get(status, "FINISHED"), run.data.tags.get(DIGEST)
        # A run that was ended without a digest has its files as long as its numbers are the trial's.
        if status not in RUN_STATUS and known != digest and (known or changed or run.info.status != ended):
            for path in [self.directory / name for name in ARTIFACTS] + _pictures(self.directory, self.warn):
                if path.is_file():
                    self._client.log_artifact(self._run_id, str(path))
        self._client.set_tag(self._run_id, DIGEST, digest)
        self._client.set_terminated(self._run_id, ended)


def read_history(directory: Path) -> list[dict[str, float | str]]:
    """The rows a trial reported, from its history.jsonl; none without the file."""
    path = directory / HISTORY
    return json_rows(path.read_bytes()) if path.is_file() else []


def read_inspection(directory: Path) -> dict[str, float]:
    """The numbers in a trial's inspection.json; none without the file."""
    path = directory / "inspection.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _pictures(directory: Path, warn: Warn) -> list[Path]:
    try:
        return draw_pictures(directory)
    except (OSError, ValueError, BadZipFile) as error:  # a damaged file is not worth a trial
        warn(f"{directory.name}: pictures not drawn ({brief(error)})")
        return []


def _param(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numeric values of a row; config fields (with dots) are params already."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and "." not in name
    }


def log_metrics(client: MlflowClient, run: Run, values: Mapping[str, float]) -> bool:
    """Records the final values (step 0) that a run has not, in one batch; whether there are any.

    MLflow shows the latest of a metric's values, so that one in place of another gets a later time, whatever the
    clocks of the machines say.
    """
    from mlflow.entities import Metric

    known, run_id = run.data.metrics, run.info.run_id
    changed = {name: value for name, value in values.items() if not _equal(known.get(name), value)}
    before = [metric for name in changed if name in known for metric in client.get_metric_history(run_id, name)]
    when = max([int(time.time() * 1000), *(metric.timestamp + 1 for metric in before)])
    if changed:
        client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in changed.items()])
    return bool(changed)


def _equal(known: float | None, value: float) -> bool:
    """Whether a store keeps `value` as `known`: NaN as NaN, what is infinite as the largest number."""
    if known is None or math.isnan(known) or math.isnan(value):
        return known is not None and math.isnan(known) and math.isnan(value)
    most = sys.float_info.max
    return min(max(known, -most), most) == min(max(value, -most), most)


def _is_measure(name: str) -> bool:
    return name in COLUMNS or better(name.removeprefix("baseline_")) is not None


def _digest(outcome: Mapping[str, Any]) -> str:
    """Tells what a trial's folder says of it from what it said before the trial was made again."""
    return hashlib.sha256(json.dumps(outcome, sort_keys=True).encode()).hexdigest()[:16]


def run_name(config: TrialConfig) -> str:
    """A child run's name: variant, width, layers and seed."""
    layers = f" n{config.fusion.num_layers}" if config.fusion.num_layers else ""
    return f"{config.fusion.variant} h{config.fusion.expert_hidden_dim}{layers} s{config.seed}"


class _Child(NamedTuple):
    """A trial's run as far as the driver needs it: whole ones would fill its memory."""

    run_id: str
    status: str
    """MLflow's."""
    trial_status: str | None
    digest: str | None
    tuning: str | None


class SweepTracker:
    """The driver's side: database, experiment and parent run, and the state of all child runs."""

    def __init__(
        self, name: str, sweep_id: str, root: Path, tracking_uri: str | None, known: RunAddress | None = None
    ) -> None:
        """Connects and creates the store and the experiment where missing.

        Args:
            name: the sweep's name, which is the experiment's.
            sweep_id: identifies this sweep's parent run within the experiment.
            root: folder of all sweeps; holds the default store and its artifacts.
            tracking_uri: an MLflow store; None: see `resolve_uri`.
            known: where this sweep was recorded before: with it, a sweep goes on while that store is away.

        Raises:
            UserError: the store cannot be reached or used, or the experiment was deleted.
        """
        self.name, self.sweep_id = name, sweep_id
        self.uri = resolve_uri(tracking_uri, root)
        self.client = open_client(self.uri)
        self.parent_run_id = ""
        self._known = known if known is not None and known.tracking_uri == self.uri else None
        try:
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                # A relative default would be another folder in every process.
                local = (root.resolve() / "mlartifacts" / name).as_uri() if self.uri.startswith("sqlite:") else None
                self.experiment_id = self.client.create_experiment(name, artifact_location=local)
                return
        except store_errors() as error:
            if self._known is not None:
                self.experiment_id = self._known.experiment_id
                return
            remedy = "start the server, or unset MLFLOW_TRACKING_URI for a local SQLite store"
            raise UserError(f"MLflow at {self.uri} cannot be used ({brief(error)}); {remedy}") from None
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"MLflow experiment {name!r} was deleted; restore it (mlflow experiments restore --experiment-id "
                f"{experiment.experiment_id}) or give the sweep another --name"
            )
        self.experiment_id = experiment.experiment_id

    def open_parent(self, description: str, warn: Warn = lambda line: None) -> RunAddress:
        """Finds or creates the parent run and marks it RUNNING.

        Raises:
            UserError: the store does not take it, and the sweep was never recorded there.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER

        try:
            filters = f"tags.`drorae.kind` = 'sweep' and tags.`drorae.sweep_id` = '{self.sweep_id}'"
            found = self.client.search_runs([self.experiment_id], filters, max_results=1)
            if found:
                self.parent_run_id = found[0].info.run_id
                self.client.update_run(self.parent_run_id, status="RUNNING")
            else:
                tags = {
                    "drorae.kind": "sweep",
                    "drorae.sweep_id": self.sweep_id,
                    MLFLOW_RUN_NAME: self.name,
                    MLFLOW_USER: os.environ.get("USER", "drorae"),
                    "mlflow.note.content": description,
                    **_versions(),
                }
                self.parent_run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        except store_errors() as error:
            if self._known is None:
                raise UserError(f"MLflow at {self.uri} does not take the sweep ({brief(error)}); try again") from None
            self.parent_run_id = self._known.parent_run_id
            warn(f"MLflow at {self.uri} does not answer ({brief(error)}); trials keep their records meanwhile")
        return self.address

    def await_store(self, seconds: float, warn: Warn, hurried: Callable[[], bool] = lambda: False) -> None:
        """Waits until the store answers, at most so long and while nobody is `hurried`: it is worth a while for what
        trials keep for it."""
        deadline = time.monotonic() + seconds
        said = False
        while True:
            try:
                self.client.get_experiment(self.experiment_id)
                return
            except store_errors() as error:
                if time.monotonic() > deadline or hurried():
                    return
                if not said:
                    said = True
                    warn(f"MLflow at {self.uri} does not answer ({brief(error)}); waiting up to {seconds:.0f} s")
                time.sleep(AWAIT_SECONDS)

    @property
    def address(self) -> RunAddress:
        """Where the trials are recorded."""
        return RunAddress(self.uri, self.experiment_id, self.parent_run_id)

    def log_preparation(self, rows: Iterable[Mapping[str, float | str]]) -> None:
        """Records phase 1's training rows on the parent run, as `phase1/...`; never raises for the store."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(f"phase1/{name}", float(value), now, int(float(row["step"])))
            for row in rows
            if row.get("phase") == "phase1" and "step" in row
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        ]
        try:
            for start in range(0, len(metrics), 1000):
                self.client.log_batch(self.parent_run_id, metrics=metrics[start : start + 1000])
        except store_errors() as error:
            logging.getLogger(__name__).debug("phase 1 not recorded: %s", error)

    def settle(
        self,
        configs: Sequence[TrialConfig],
        trials: Path,
        warn: Warn,
        running: frozenset[str] = frozenset(),
        fetch: Callable[[str], None] = lambda key: None,
    ) -> None:
        """Makes the child runs agree with what the trials left on disk; never raises for the store.

        Finished, pruned and failed trials are recorded in full, whether or not they had a run. A run of a
        trial that nobody works on any more is KILLED. Trials in `running` (config hashes) are left alone.
        `fetch` is called with the hash of a trial whose files are needed.
        """
        try:
            self._settle(configs, trials, warn, running, fetch)
        except store_errors() as error:
            warn(f"MLflow at {self.uri} does not answer ({brief(error)}); runs are mended at the next start")

    def _settle(
        self,
        configs: Sequence[TrialConfig],
        trials: Path,
        warn: Warn,
        running: frozenset[str],
        fetch: Callable[[str], None],
    ) -> None:
        children = self._children()
        for config in configs:
            key = config_hash(config)
            directory = trials / key
            outcome = read_outcome(directory)
            status = outcome["status"]
            runs = children.pop(key, [])
            if key in running or (status == "missing" and not runs):
                continue
            run = runs[0] if runs else None
            settled = (RUN_STATUS.get(status, "FINISHED"), status, _digest(outcome))
            known = run and (run.status, run.trial_status, run.digest)
            if known != settled or (directory / "spool.jsonl").is_file():
                fetch(key)
                tracker = TrialTracker(self.address, config, directory, warn)
                if not tracker.finish():
                    return
            self._kill(runs[1:])
            # A store that died between making a run and saying so was asked twice; the first has everything.
            for twin in runs[1:]:
                self.client.delete_run(twin.run_id)
        self._kill([run for runs in children.values() for run in runs])

    def _kill(self, runs: Sequence[_Child]) -> None:
        """Ends runs that nobody works on."""
        for run in runs:
            if run.status == "RUNNING":
                self.client.set_terminated(run.run_id, "KILLED")

    def rename(self, today: Mapping[str, str], warn: Warn) -> None:
        """Gives trials' runs today's hash, which `today` has by the former one; never raises for the store."""
        try:
            for key, runs in self._children().items() if today else ():
                for run in runs if key in today else ():
                    self.client.set_tag(run.run_id, "drorae.config_hash", today[key])
        except Exception as error:
            warn(f"MLflow at {self.uri} does not answer ({brief(error)}); runs are renamed at the next start")

    def tag_tuning(self, roles: Mapping[str, str], warn: Warn) -> None:
        """Tags the trials of a search with what they are to the law; never raises for the store."""
        if not roles:
            return
        try:
            for key, runs in self._children().items():
                for run in runs:
                    if key in roles and run.tuning != roles[key]:
                        self.client.set_tag(run.run_id, "drorae.tuning", roles[key])
        except store_errors() as error:
            warn(f"MLflow at {self.uri} does not answer ({brief(error)}); the search is tagged at the next start")

    def share_view(self, metrics: Sequence[str], warn: Warn) -> str:
        """Sets up the experiment's charts in the UI and returns their address below the UI's; empty where the store
        does not take them."""
        key, content = shared_view(metrics)
        address = view_address(self.experiment_id, key)
        try:
            note = f"[Every metric against capacity]({address})"
            for name, value in ((f"{TAG}{key}", content), ("mlflow.note.content", note)):
                self.client.set_experiment_tag(self.experiment_id, name, value)
        except store_errors() as error:
            warn(f"MLflow at {self.uri} does not take the view of the charts ({brief(error)})")
            return ""
        return address

    def _children(self) -> dict[str, list[_Child]]:
        """Child runs by config hash, oldest first."""
        filters = f"tags.`mlflow.parentRunId` = '{self.parent_run_id}' and tags.`drorae.kind` = 'trial'"
        found: dict[str, list[_Child]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filters,
                max_results=PAGE_RUNS,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                known = (tags.get(name) for name in ("drorae.status", DIGEST, "drorae.tuning"))
                child = _Child(run.info.run_id, run.info.status, *known)
                found.setdefault(tags.get("drorae.config_hash", ""), []).append(child)
            token = page.token
            if not token:
                return found

    def close(self, counts: Mapping[str, int], files: Sequence[Path], warn: Warn) -> None:
        """Ends the parent run: FINISHED when every trial ended well, FAILED when one failed, KILLED when the
        sweep was interrupted. Records counts and the given files; never raises for the store."""
        status = "KILLED" if counts.get("missing") else "FAILED" if counts.get("failed") else "FINISHED"
        try:
            run = self.client.get_run(self.parent_run_id)
            # Of an earlier call, too, so that none is left of those that came to another end.
            names = {name for name in run.data.metrics if name.startswith("trials_")}
            names |= {f"trials_{name}" for name in ("finished", "failed", "missing", *counts)}
            values = {name: float(counts.get(name.removeprefix("trials_"), 0)) for name in names}
            log_metrics(self.client, run, values)
            for path in files:
                self.client.log_artifact(self.parent_run_id, str(path))
            self.client.set_terminated(self.parent_run_id, status)
        except store_errors() as error:
            warn(f"MLflow at {self.uri} does not answer ({brief(error)}); the sweep's own run is ended next time")


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("drorae", "ray", "mlflow", "torch"):
        try:
            versions[f"drorae.version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

"""Records a sweep in MLflow: an experiment with one parent run, and the state of the trials' runs below it.

Nothing of it raises because the store is away once the sweep has begun: what is left undone, the next start does.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drorae.config import TrialConfig, config_hash
from drorae.errors import UserError, brief
from drorae.storage.artifacts import artifact_folder, follow
from drorae.storage.places import follow_store, sqlite_path
from drorae.training.rows import MOST_SENT, Spread, is_kept
from drorae.trial.folder import BROKEN, SPOOL, UNMADE, TrialStatus, read_outcome
from sweeps.folder.sweep import RunAddress
from sweeps.tracking.charts import TAG, shared_view, view_address
from sweeps.tracking.client import Store, Warn, resolve_uri, store_errors
from sweeps.tracking.trial import DIGEST, ROLE_TAG, RUN_STATUS, TrialTracker, outcome_digest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

AWAIT_SECONDS = 2.0
"""Between two looks at a store that is waited for."""


TAGS = ("drorae.status", DIGEST, "drorae.tuning", ROLE_TAG)
"""What the driver has to know of a trial's run."""


class _Child(NamedTuple):
    """A trial's run as far as the driver needs it: whole ones would fill its memory."""

    run_id: str
    status: str
    """MLflow's."""
    tags: dict[str, str]
    """Those of `TAGS` that it has."""


class SweepTracker:
    """The driver's side: database, experiment and parent run, and the state of all child runs."""

    def __init__(
        self,
        name: str,
        sweep_id: str,
        root: Path,
        tracking_uri: str | None,
        known: RunAddress | None = None,
        warn: Warn = lambda line: None,
        check: Callable[[], None] = lambda: None,
        roles: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        """Connects and creates the store and the experiment where missing.

        Args:
            name: the sweep's name, which is the experiment's.
            sweep_id: identifies this sweep's parent run within the experiment.
            root: folder of all sweeps; holds the default store and its artifacts.
            tracking_uri: an MLflow store; None: see `resolve_uri`.
            known: where this sweep was recorded before: with it, a sweep goes on while that store is away.
            warn: takes what the user should know.
            check: as for `Store`.
            roles: what trials that are no points of the law are there for, by config hash.

        Raises:
            UserError: the store cannot be reached or used, or the experiment was deleted.
        """
        self.name, self.sweep_id, self.roles = name, sweep_id, roles
        self.uri = resolve_uri(tracking_uri, root)
        self._store = Store(self.uri, check)
        self.parent_run_id = ""
        self._known = known if known is not None and known.tracking_uri == self.uri else None
        self._former = known.parent_run_id if known is not None else ""
        self._follow(root, warn)
        try:
            # By its run first: people rename experiments, and another store has others of the same id.
            identity = self._known.experiment_id if self._known else ""
            experiment = self._store.known_experiment(self._former, identity)
            experiment = experiment or self.client.get_experiment_by_name(name)
            if experiment is None:
                # A relative default would be another folder in every process.
                local = artifact_folder(root, name).as_uri() if self.uri.startswith("sqlite:") else None
                self.experiment_id = self.client.create_experiment(name, artifact_location=local)
                return
        except store_errors() as error:
            if self._known is None:
                remedy = "start the server, or unset MLFLOW_TRACKING_URI for a local SQLite store"
                raise UserError(f"MLflow at {self.uri} cannot be used ({brief(error)}); {remedy}") from None
            self.experiment_id = self._known.experiment_id
            return
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"MLflow experiment {experiment.name!r} was deleted; restore it (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}) or give the sweep another --name"
            )
        self.experiment_id = experiment.experiment_id

    def _follow(self, root: Path, warn: Warn) -> None:
        """Lets the files of a store in an SQLite file lie where the sweeps do, if their folder was moved."""
        path = sqlite_path(self.uri)
        if path is None:
            return
        for former in dict.fromkeys(follow(path, root, self.name) + follow_store(self.uri)):
            warn(f"MLflow at {self.uri}: the sweeps of {former} lie elsewhere now, and so do the files of their runs")

    @property
    def client(self) -> MlflowClient:
        """MLflow's own."""
        return self._store.client

    @property
    def address(self) -> RunAddress:
        """Where the trials are recorded."""
        return RunAddress(self.uri, self.experiment_id, self.parent_run_id)

    def open_parent(self, description: str, warn: Warn = lambda line: None) -> RunAddress:
        """Finds, restores or creates the parent run and marks it RUNNING.

        Where the one that the sweep was recorded under is gone for good, its trials' runs are put below the new one.

        Raises:
            UserError: the store does not take it, and the sweep was never recorded there.
        """
        try:
            identity = {"drorae.kind": "sweep", "drorae.sweep_id": self.sweep_id}
            tags = {"mlflow.note.content": description, **_versions()}
            run = self._store.open_run(self.experiment_id, self.name, identity, tags)
            self.parent_run_id = run.info.run_id
            if self._former not in ("", self.parent_run_id):
                self._store.adopt(self.experiment_id, self._former, self.parent_run_id)
            self.client.update_run(self.parent_run_id, status="RUNNING")
        except store_errors() as error:
            if self._known is None:
                raise UserError(f"MLflow at {self.uri} does not take the sweep ({brief(error)}); try again") from None
            self.parent_run_id = self._known.parent_run_id
            warn(f"{self._store.away(error)}; trials keep their records meanwhile")
        return self.address

    @contextlib.contextmanager
    def _forgiving(self, warn: Warn, then: str, trouble: str = "") -> Iterator[None]:
        """Warns, in one line, where the store is away, and leaves the rest of the block undone."""
        try:
            yield
        except store_errors() as error:
            refused = f"MLflow at {self.uri} {trouble} ({brief(error)})"
            warn(f"{refused if trouble else self._store.away(error)}{then}")

    def await_store(self, seconds: float, warn: Warn, hurried: Callable[[], bool] = lambda: False) -> None:
        """Waits until the store answers: it is worth a while for what trials keep for it.

        Args:
            seconds: at most so long.
            warn: is told once that the store is waited for.
            hurried: whether somebody does not want to wait any more.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.client.get_experiment(self.experiment_id)
                return
            except store_errors() as error:
                if time.monotonic() > deadline or hurried():
                    return
                warn(f"{self._store.away(error)}; waiting up to {seconds:.0f} s")
                warn = _say_nothing
                time.sleep(AWAIT_SECONDS)

    def log_preparation(self, rows: Iterable[Mapping[str, float | str]]) -> None:
        """Records phase 1's training rows on the parent run, as `phase1/...`."""
        now, spread = int(time.time() * 1000), Spread(MOST_SENT)
        metrics = [
            (f"phase1/{name}", float(value), now, int(float(row["step"])))
            for row in rows
            if row.get("phase") == "phase1" and "step" in row and is_kept(row) and spread.takes(row)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        ]
        with self._forgiving(logging.getLogger(__name__).debug, "; phase 1 is not recorded"):
            self._store.send(self.parent_run_id, metrics)

    def settle(
        self,
        configs: Sequence[TrialConfig],
        trials: Path,
        warn: Warn,
        running: frozenset[str] = frozenset(),
        fetch: Callable[[str], None] = lambda key: None,
    ) -> None:
        """Makes the child runs agree with what the trials left on disk.

        Finished, pruned and failed trials are recorded in full, whether or not they had a run. A run of a
        trial that nobody works on any more is KILLED.

        Args:
            configs: the sweep's trials.
            trials: the folder that holds one folder per trial, named by config hash.
            warn: takes what the user should know.
            running: config hashes of trials that are left alone.
            fetch: is called with the hash of a trial whose files are needed.
        """
        with self._forgiving(warn, "; runs are mended at the next start"):
            children = self._children()
            for config in configs:
                key = config_hash(config)
                runs = children.pop(key, [])
                outcome = read_outcome(trials / key)
                if key in running or (outcome["status"] in UNMADE and not runs):
                    continue
                if not _is_settled(runs, outcome, self.roles.get(key, "")) or (trials / key / SPOOL).is_file():
                    fetch(key)
                    if not self.record(config, trials / key, warn):
                        return
                self._kill(runs[1:])
                # A store that died between making a run and saying so was asked twice; the first has everything.
                for twin in runs[1:]:
                    self.client.delete_run(twin.run_id)
            self._kill([run for runs in children.values() for run in runs])

    def record(self, config: TrialConfig, directory: Path, warn: Warn) -> bool:
        """Records how a trial has ended; returns False where the store does not take all of it."""
        role = self.roles.get(config_hash(config), "")
        return TrialTracker(self.address, config, directory, warn, self._store.check, role).finish()

    def _kill(self, runs: Sequence[_Child]) -> None:
        """Ends runs that nobody works on."""
        for run in runs:
            if run.status == "RUNNING":
                self.client.set_terminated(run.run_id, "KILLED")

    def rename(self, today: Mapping[str, str], warn: Warn) -> None:
        """Gives trials' runs today's hash, which `today` has by the former one."""
        with self._forgiving(warn, "; runs are renamed at the next start"):
            self._tag("drorae.config_hash", today)

    def tag_tuning(self, roles: Mapping[str, str], warn: Warn) -> None:
        """Tags the trials of a search with what they are to the law."""
        with self._forgiving(warn, "; the search is tagged at the next start"):
            self._tag("drorae.tuning", roles)

    def _tag(self, name: str, values: Mapping[str, str]) -> None:
        """Sets a tag of trials' runs to the values by config hash."""
        children = self._children() if values else {}
        for key in values.keys() & children:
            for run in children[key]:
                if run.tags.get(name) != values[key]:
                    self.client.set_tag(run.run_id, name, values[key])

    def share_view(self, metrics: Sequence[str], warn: Warn) -> str:
        """Sets up the experiment's charts in the UI.

        Returns their address below the UI's; empty where the store does not take them.
        """
        key, content = shared_view(metrics)
        address = view_address(self.experiment_id, key)
        with self._forgiving(warn, "", trouble="does not take the view of the charts"):
            note = f"[Every metric against capacity]({address})"
            for name, value in ((f"{TAG}{key}", content), ("mlflow.note.content", note)):
                self.client.set_experiment_tag(self.experiment_id, name, value)
            return address
        return ""

    def _children(self) -> dict[str, list[_Child]]:
        """Child runs by config hash, oldest first."""
        found: dict[str, list[_Child]] = {}
        for run in self._store.trial_runs(self.experiment_id, self.parent_run_id):
            tags = run.data.tags
            child = _Child(run.info.run_id, run.info.status, {name: tags[name] for name in TAGS if name in tags})
            found.setdefault(tags.get("drorae.config_hash", ""), []).append(child)
        return found

    def close(self, counts: Mapping[str, int], files: Sequence[Path], warn: Warn) -> None:
        """Ends the parent run, and records the counts and the given files.

        The run is FINISHED when every trial ended well, FAILED when one failed, KILLED when the sweep was interrupted.
        """
        broken = any(counts.get(name) for name in BROKEN)
        status = "KILLED" if counts.get(TrialStatus.MISSING) else "FAILED" if broken else "FINISHED"
        with self._forgiving(warn, "; the sweep's own run is ended next time"):
            run = self.client.get_run(self.parent_run_id)
            # Of an earlier call, too, so that none is left of those that came to another end.
            names = {name for name in run.data.metrics if name.startswith("trials_")}
            names |= {
                f"trials_{name}" for name in (TrialStatus.FINISHED, TrialStatus.FAILED, TrialStatus.MISSING, *counts)
            }
            self._store.send_final(run, {name: float(counts.get(name.removeprefix("trials_"), 0)) for name in names})
            for path in files:
                self.client.log_artifact(self.parent_run_id, str(path))
            self.client.set_terminated(self.parent_run_id, status)


def _say_nothing(line: str) -> None:
    pass


def _is_settled(runs: Sequence[_Child], outcome: Mapping[str, object], role: str) -> bool:
    """Returns whether the first of a trial's runs says what the trial's folder says, and what the trial is for."""
    status = str(outcome["status"])
    ended = (RUN_STATUS.get(status, "FINISHED"), status, outcome_digest(outcome), role)
    if not runs:
        return False
    tags = runs[0].tags
    return (runs[0].status, tags.get("drorae.status"), tags.get(DIGEST), tags.get(ROLE_TAG, "")) == ended


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("drorae", "ray", "mlflow", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[f"drorae.version.{package}"] = importlib.metadata.version(package)
    return versions

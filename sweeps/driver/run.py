"""Runs a sweep's trials on Ray: the driver. What its workers do stands in workers.py, how Tune is spoken to in tune.py.

What is done is read from the trials' folders, not from Ray: the same command run again does what is missing and
nothing else, whatever became of the process that ran it before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, config_hash, from_dict, is_moved, load_config, shared_key, to_dict
from drorae.errors import ClusterLost, UserError, one_line
from drorae.machine.capacity import check_share
from drorae.runtime.shell import command
from drorae.runtime.signals import WORDS, Interrupted, Signals, Stopped
from drorae.storage.files import naming_full_disk, write_json
from drorae.storage.remote import Remote, absolute, locate, patiently
from drorae.trial.folder import read_outcome, ready_trial
from sweeps.driver.cluster import HeadWatch, alive_nodes, cluster_address, ray_session, require_tune
from sweeps.driver.output import DRIVER_LOG, Tail, aside
from sweeps.driver.preparation import Preparation
from sweeps.driver.queue import Asha, Listed
from sweeps.driver.resources import Resources, Share, check_shares, most_memory
from sweeps.driver.screen import Screen
from sweeps.driver.search import Studies
from sweeps.driver.session import Session
from sweeps.folder.lease import Lease, LeaseLost, is_live, read_lease
from sweeps.folder.migration import migrate
from sweeps.folder.mirror import TOLD, Mirror, brought, check_store, in_trials
from sweeps.folder.status import DRIVER_LEASE, read_spec
from sweeps.folder.table import measured, table_rows, write_table
from sweeps.spec import Search, SweepSpec, expand, field_name, varied_fields
from sweeps.tracking.client import RunAddress, SweepTracker, check_nodes
from sweeps.worker.entry import Work

RUN_TRIAL = "drorae.trial.run:run_trial"
PREPARE = "drorae.trial.run:prepare"
DONE = ("finished", "unconverged", "diverged", "pruned")
"""Statuses that a rerun leaves alone."""
AWAIT_STORE_SECONDS = 120.0
"""After the last trial, a tracking server that is away is waited for so long."""
DRIVER_FILES = ("sweep.json", "trials.csv", "studies.db", *in_trials(TOLD))
"""What a driver needs of a sweep whose folder is in a store; weights and checkpoints stay there."""


@dataclass(frozen=True)
class SweepOutcome:
    """Where a sweep's results are."""

    directory: Path
    """Of a sweep in a store: this machine's copy."""
    trials_csv: Path
    counts: dict[str, int]
    """Trials per status: finished, unconverged, diverged, pruned, failed, missing."""
    parent_run_id: str
    tracking_uri: str
    charts: str = ""
    """Address below the MLflow UI's of every metric's chart against capacity."""
    mirror: Mirror | None = None
    """Sends what is added to `directory` to the store; None where the folder is on a disk."""

    @property
    def place(self) -> str:
        """The sweep's folder as everybody knows it: its path or URL."""
        return str(self.directory if self.mirror is None else self.mirror.remote)

    def fetch_picture(self, under: str) -> None:
        """Brings a trial's picture here, where the sweep's folder is in a store; `under`: `trials/HASH`."""
        if self.mirror is not None:
            self.mirror.pull(under, ("grid.png",))


def run_sweep(
    spec: SweepSpec,
    *,
    root: Path | str = Path("runs"),
    runtime: Runtime | None = None,
    resources: Resources | None = None,
    max_failures: int = 3,
    asha: Asha | None = None,
    tracking_uri: str | None = None,
    budget_hours: float = 0.0,
    quiet: bool = False,
    run_trial: str = RUN_TRIAL,
    prepare: str = PREPARE,
) -> SweepOutcome:
    """Runs what is missing of a sweep, and records everything in MLflow and in `<root>/<name>/trials.csv`.

    A trial that raises is tried again from its checkpoint up to `max_failures` times and then recorded as failed,
    while the sweep goes on; a later call tries it again. One whose process or machine dies is given `DEATHS` more
    (none where `max_failures` is 0). A UserError in a trial is recorded at once.

    Args:
        spec: the trials.
        root: folder of all sweeps, or a URL such as `s3://bucket/runs` where no disk is shared. This one's folder is
            `<root>/<name>`.
        runtime: device, threads, cache; with threads 0 a trial uses its CPUs.
        resources: per trial and in all.
        max_failures: retries per trial.
        asha: early stopping; None: every trial runs to its end.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else `<root>/mlflow.db`.
        budget_hours: no trial is started once the sweep has cost so many GPU hours (CPU hours where trials have no
            GPU), all attempts of all calls counted; 0: no limit.
        quiet: show nothing. Otherwise progress goes to stderr, in a notebook to the cell's output. What Ray, MLflow and
            other libraries print meanwhile goes to `driver.log` in the sweep's folder.
        run_trial: `module:function` to call instead of drorae's, for tests and other tokenizers.
        prepare: the same for what trials share; called with (config, runtime, report).

    Raises:
        UserError: an unusable spec; another sweep of this name with other trials; another process at work on it;
            resources that the machine lacks; an MLflow store that does not answer; or nothing can be prepared.
        DiskFull: there is no room for what the driver itself writes.
        LeaseLost: another driver took the sweep over while this one was suspended.
        RemoteError: the store that holds the sweep's folder stays away.
        ClusterLost: the head node of the Ray cluster is gone.
        KeyboardInterrupt: Ctrl-C. As for `Stopped`, the table is written and the runs are ended before.
        Stopped: TERM or HUP, a SystemExit.
    """
    basis = {config_hash(config): config for config in expand(spec)}
    runtime = runtime or Runtime()
    settings = Settings(
        replace(runtime, cache_dir=absolute(runtime.cache_dir)),
        resources or Resources(), max_failures, asha, budget_hours, run_trial, prepare,
    )  # fmt: skip
    settings.check()
    place = locate(root)
    mirror = Mirror(place / spec.name, "driver") if isinstance(place, Remote) else None
    directory = (Path(absolute(root)) if mirror is None else mirror.local.parent) / spec.name
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"{directory}: cannot be written to ({error.strerror}); choose another folder") from None
    if mirror is not None:
        check_store(mirror.remote)
    here = () if str(root) == "runs" else ("--root", root)
    go_on = command("resume", spec.name, *here)
    with Signals() as signals, naming_full_disk(directory), contextlib.ExitStack() as stack:
        with signals.deferred():
            people, log = stack.enter_context(aside(directory / DRIVER_LOG))
            footer = f"Ctrl-C stops it; to go on: {go_on}"
            screen = Screen(spec.name, people, log, Tail(directory / DRIVER_LOG), footer, quiet, signals.deferred)
            signals.leave = screen.close
            stack.enter_context(screen)
        driver = _Driver(spec, basis, settings, directory, mirror, tracking_uri, screen, signals, go_on)
        try:
            with driver.lease():
                return driver.run()
        except LeaseLost as error:
            screen.record(f"error: {error}")
            raise
        except (UserError, OSError) as error:
            screen.record(f"error: {error}")
            # A mistake in the very first call, or a full disk, leaves no folder behind.
            if not existed and driver.address is None:
                shutil.rmtree(directory, ignore_errors=True)
            elif driver.new and driver.address is None:
                (directory / "sweep.json").unlink(missing_ok=True)
            raise
        except ClusterLost as error:
            text = f"{error}; {driver.standing()}; to go on: {go_on}"
            screen.record(f"error: {text}")
            raise ClusterLost(text) from error
        except (KeyboardInterrupt, SystemExit) as error:
            end = signals.meant(error)
            if isinstance(end, Interrupted | Stopped):
                screen.line(f"{WORDS[end.signum]}: {driver.standing()}; to go on: ", go_on)
                end.said = True
            raise end from None


@dataclass(frozen=True)
class Settings:
    """How a sweep is run, as `run_sweep` is told."""

    runtime: Runtime
    resources: Resources
    max_failures: int
    asha: Asha | None
    budget_hours: float
    run_trial: str
    prepare: str

    def check(self) -> None:
        """Raises UserError for numbers that make no sense."""
        if self.max_failures < 0:
            raise UserError(f"max_failures: expected 0 or more, got {self.max_failures}")
        if self.budget_hours < 0:
            raise UserError(f"budget_hours: expected 0 (no limit) or more, got {self.budget_hours:g}")

    def tree(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"runtime": to_dict(self.runtime)}

    @staticmethod
    def from_tree(tree: Mapping[str, Any]) -> Settings:
        """The inverse of `tree`."""
        runtime, resources = from_dict(Runtime, tree["runtime"]), Resources.from_dict(tree["resources"])
        asha = Asha(**tree["asha"]) if tree["asha"] else None
        # Where drorae 0.1.0 had them.
        moved = {name: tree[name].replace("drorae.trial:", "drorae.trial.run:") for name in ("run_trial", "prepare")}
        try:
            return Settings(**{**tree, **moved, "runtime": runtime, "resources": resources, "asha": asha})
        except TypeError as error:
            raise UserError(f"sweep.json: {one_line(error)}; made by a newer drorae: update this one") from None


class _Driver:
    """One call of `run_sweep`, from the open folder to its end."""

    def __init__(
        self,
        spec: SweepSpec,
        basis: dict[str, TrialConfig],
        settings: Settings,
        directory: Path,
        mirror: Mirror | None,
        tracking_uri: str | None,
        screen: Screen,
        signals: Signals,
        go_on: str,
    ) -> None:
        self.go_on = go_on
        self.spec, self.basis, self.settings = spec, basis, settings
        self.directory, self.trials = directory, directory / "trials"
        self.mirror, self.tracking_uri = mirror, tracking_uri
        self.screen, self.signals = screen, signals
        self.configs = basis
        self.address: RunAddress | None = None
        self.counts: dict[str, int] = {}
        self.charts = ""
        self.new = False
        """Whether the folder held no sweep before this call."""
        self._patience = 0.0
        self._closed = threading.Lock()
        self._lease = Lease((directory if mirror is None else mirror.remote) / DRIVER_LEASE)

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Keeps other drivers off the sweep.

        Raises:
            UserError: one is at work on it.
        """
        path = self._lease.path
        if not is_live(path) and read_lease(path) is not None:
            self.screen.line(f"{self.spec.name}: its last driver left no word; waiting to see whether it lives")
        if not self._lease.acquire(wait=False):
            raise UserError(
                f"{path.parent}: another drorae sweep is running here; wait for it, or give this one another --name"
            )
        if self.mirror is not None:
            self.mirror.lease = self._lease
        with self._lease:
            yield

    def run(self) -> SweepOutcome:
        """Opens the sweep, runs what is missing, and leaves table and records in order, however it ends."""
        self.open()
        try:
            with (
                ray_session(self.settings.resources.address) if self.missing or self.moved else contextlib.nullcontext()
            ):
                self.signals.install()
                with HeadWatch(self.screen.line, self._leave) as watch:

                    def check() -> None:
                        watch.check()
                        self._lease.check()

                    try:
                        self.work(check)
                    except ClusterLost:
                        # Ray may end the process while it is being left.
                        self.close()
                        raise
            self._patience = AWAIT_STORE_SECONDS
        finally:
            with self.signals.deferred():
                self.close()
        assert self.address is not None
        table = self.directory / "trials.csv"
        uri = self.address.tracking_uri
        return SweepOutcome(
            self.directory, table, self.counts, self.address.parent_run_id, uri, self.charts, self.mirror
        )

    def open(self) -> None:
        """Reads what the folder holds, and finds what is missing.

        Raises:
            UserError: it holds another sweep.
        """
        if self.mirror is not None:
            pull = self.mirror.pull
            patiently(lambda: pull(patterns=DRIVER_FILES))
        self.new = not (self.directory / "sweep.json").exists()
        self.former = {} if self.new else migrate(self.directory, self.mirror)
        self.sweep_id = _check_spec(self.directory, self.spec, self.basis, self.former)
        self.known = _known_address(self.directory)
        search = self.spec.search
        self.studies = None if search is None else Studies(self.directory / "studies.db", self.spec, self.trials)
        self.configs = self.basis if self.studies is None else self.studies.configs
        if self.studies is None:
            self.missing = [key for key in self.configs if not self._is_done(key)]
        else:
            self.missing = [] if self.studies.finished else list(self.basis)
        self.moved = self._moved()
        self.screen.total = len(self.configs) if self.studies is None else self.studies.total
        varied = varied_fields(list(self.basis.values()))
        varied += [field_name(item.name) for item in search.ranges] if search else []
        self.session = Session(self.configs, self.trials, list(dict.fromkeys(varied)), self.screen, self.mirror)
        self._write_spec()
        where = self.directory if self.mirror is None else self.mirror.remote
        self.screen.line(f"{self.spec.name}: {self.screen.total} trials, results in ", str(where))
        if self.missing:
            self.screen.line("what Ray and MLflow say goes to ", str(self.directory / DRIVER_LOG))

    def work(self, check: Callable[[], None]) -> None:
        """Prepares, records and trains what is missing."""
        screen, settings = self.screen, self.settings
        share_of = self._sharing()
        groups = {key: self.basis[key] for key in self.missing} | {key: self.configs[key] for key in self.moved}
        preparation = Preparation(
            groups, screen, settings.runtime, share_of, settings.prepare, self.directory, self.mirror, check,
            self._inputs(),
        )  # fmt: skip
        preparation.start()
        # Making an MLflow store takes as long as the first worker's imports, and goes on beside them.
        screen.doing("opening MLflow")
        require_tune()
        home = self.directory.parent
        self.tracker = SweepTracker(self.spec.name, self.sweep_id, home, self.tracking_uri, self.known)
        nodes = [node["NodeManagerAddress"] for node in alive_nodes()] if self.missing or self.moved else ()
        check_nodes(self.tracker.uri, nodes)
        failed, prepared = preparation.finish()
        for key in self.moved:
            if key in failed:
                raise UserError(failed[key])
            write_json(self.trials / key / "config.json", to_dict(self.configs[key]))
        self.address = self.tracker.open_parent(f"{screen.total} trials", screen.line)
        self.tracker.rename(self.former, screen.line)
        self._write_spec()
        runnable = self._ready(failed)
        self.session.send()
        self.tracker.log_preparation(prepared)
        everything = list(self.configs.values())
        screen.doing("recording in MLflow")
        self.tracker.settle(everything, self.trials, screen.line, frozenset(runnable), self.session.fetch)
        screen.done = self._done()
        if screen.done:
            screen.line(f"{screen.done} of {screen.total} trials are done already")
        if self.studies is None:
            screen.done = screen.total - len(runnable)
        if runnable or (self.studies is not None and self.missing):
            self._train(runnable, share_of, check)

    def close(self) -> None:
        """Writes the table and ends the runs, once; what goes wrong with MLflow is said and left for the next call."""
        if self.address is None or self._lease.lost or not self._closed.acquire(blocking=False):
            return
        screen, tracker = self.screen, self.tracker
        screen.doing("writing the table and the records")
        everything = list(self.configs.values())
        roles = {} if self.studies is None else self.studies.roles()
        rows = table_rows(everything, self.trials, roles)
        table = self.directory / "trials.csv"
        self.counts = write_table(table, rows)
        self._write_spec()
        tracker.await_store(self._patience, screen.line, lambda: self.signals.received is not None)
        tracker.settle(everything, self.trials, screen.line, fetch=self.session.fetch)
        tracker.tag_tuning(roles, screen.line)
        self.charts = tracker.share_view(measured(rows), screen.line)
        tracker.close(self.counts, [table, self.directory / "sweep.json"], screen.line)
        self.session.send()

    def standing(self) -> str:
        """`3 of 12 trials are done`."""
        return f"{self._done()} of {max(self.screen.total, len(self.configs))} trials are done"

    def _moved(self) -> list[str]:
        """The trials that are done, but with data or weights at other places, which must hold the same."""
        paths = {key: self.trials / key / "config.json" for key in self.configs if self._is_done(key)}
        return [key for key, path in paths.items() if path.is_file() and is_moved(load_config(path), self.configs[key])]

    def _inputs(self) -> dict[str, dict[str, str]]:
        """Fingerprints that trials were made from so far, by what they share.

        The decoder's address is left out: it may be another one to a later version, whatever the weights are.
        """
        found: dict[str, dict[str, str]] = {}
        for key, config in self.configs.items():
            known = found.setdefault(config_hash(shared_key(config)), {})
            with contextlib.suppress(OSError, ValueError):
                known |= json.loads((self.trials / key / "inputs.json").read_text())
            if digest := read_outcome(self.trials / key).get("weights", {}).get("phase1_decoder"):
                known["phase1_weights"] = digest
            known.pop("phase1_decoder", None)
        return found

    def _is_done(self, key: str) -> bool:
        return read_outcome(self.trials / key)["status"] in DONE

    def _done(self) -> int:
        return sum(self._is_done(key) for key in self.configs)

    def _leave(self, error: ClusterLost) -> None:
        """Ends the process from a thread: the main one hangs in a call to Ray."""
        self.close()
        self.screen.line(f"error: {error}; {self.standing()}; to go on: ", self.go_on)
        self.screen.close()
        os._exit(1)

    def _ready(self, failed: Mapping[str, str]) -> list[str]:
        """Readies the missing trials' folders; those whose preparation failed are left out, with the reason."""
        if self.studies is not None:
            return []
        for key in self.missing:
            ready_trial(self.trials / key, self.configs[key])
        for key, reason in failed.items():
            write_json(self.trials / key / "failure.json", {"reason": reason})
        return [key for key in self.missing if key not in failed]

    def _train(
        self, runnable: Sequence[str], share_of: Callable[[TrialConfig], Share], check: Callable[[], None]
    ) -> None:
        from sweeps.driver.tune import Plan, run_trials

        assert self.address is not None
        settings, session = self.settings, self.session
        session.listed = runnable
        session.look_back(set(self.configs) - set(runnable))
        search = self.spec.search
        reports = settings.asha is not None or (search is not None and search.pruner != "none")
        remote = "" if self.mirror is None else self.mirror.remote.url
        work = Work(
            str(self.trials), settings.runtime, self.address, settings.run_trial, reports, settings.max_failures, remote
        )
        asker = Listed(runnable) if self.studies is None else self.studies

        def both() -> None:
            check()
            self.signals.check()

        plan = Plan(
            asker, share_of, settings.resources, settings.max_failures, settings.asha, settings.budget_hours, both
        )
        self.screen.doing("training", session)
        # Hidden, it is not sent to a store.
        run_trials(session, plan, work, self.directory / ("ray" if self.mirror is None else ".ray"))

    def _sharing(self) -> Callable[[TrialConfig], Share]:
        """What a trial gets, once the cluster is known to have it for those that are missing.

        Raises:
            UserError: it has not, or the numbers make no sense.
        """
        resources, runtime = self.settings.resources, self.settings.runtime
        nodes = [node["Resources"] for node in alive_nodes()] if self.missing else []
        gpus_seen = runtime.device in ("auto", "cuda") and any(node.get("GPU", 0) >= 1 for node in nodes)
        shares = [resources.share(self.basis[key], gpus_seen) for key in self.missing]
        if self.mirror is not None and any(share.processes > 1 for share in shares):
            raise UserError(
                "--root: trials of several processes need a folder on a disk that all nodes share; give a path, or "
                "--processes 1"
            )
        if not resources.autoscaling:
            check_shares(shares, nodes, runtime.device)
            if cluster_address(resources.address) and self.settings.run_trial == RUN_TRIAL:
                for key, share in zip(self.missing, shares, strict=True):
                    check_share(self.basis[key], runtime, share.gpus, share.processes, most_memory(nodes, share))
        return lambda config: resources.share(config, gpus_seen)

    def _write_spec(self) -> None:
        address = self.address or self.known
        tree = {
            "id": self.sweep_id,
            "spec": self.spec.to_dict(),
            "settings": self.settings.tree(),
            "tracking": None if address is None else asdict(address),
            "trials": list(self.configs),
            "former_hashes": self.former,
        }
        write_json(self.directory / "sweep.json", tree)


def _check_spec(directory: Path, spec: SweepSpec, configs: Mapping[str, TrialConfig], today: Mapping[str, str]) -> str:
    """The sweep's id: that of the folder if its trials are all among these, a new one in an empty folder."""
    if not (directory / "sweep.json").exists():
        return uuid.uuid4().hex
    known = read_spec(directory)
    # A call that was interrupted before it began a trial binds nobody.
    keys = {today.get(key, key) for key in known["trials"]}
    before = {key for key in keys if (directory / "trials" / key).exists()}
    search = None
    if known["spec"].get("search"):
        earlier = SweepSpec.from_dict(known["spec"])
        before, search = {config_hash(config) for config in expand(earlier)}, earlier.search
    lost = before - set(configs)
    remedy = "give this one another --name, or delete the folder"
    if lost:
        raise UserError(
            f"{directory}: holds another sweep ({len(lost)} of its {len(before)} trials are not in this one); {remedy}"
        )
    # More trials of the same search go on with its studies.
    if _but_trials(search) != _but_trials(spec.search):
        raise UserError(f"{directory}: holds a sweep with another search, or with none; {remedy}")
    return known["id"]


def _but_trials(search: Search | None) -> Search | None:
    return None if search is None else replace(search, trials=0)


def _known_address(directory: Path) -> RunAddress | None:
    """Where the sweep was recorded before; None where it never was."""
    tree = read_spec(directory).get("tracking") if (directory / "sweep.json").exists() else None
    return None if tree is None else RunAddress(**tree)


def resume_sweep(directory: Path | str, *, tracking_uri: str | None = None, quiet: bool = False) -> SweepOutcome:
    """Finishes a sweep from its folder or URL, with the settings it was started with; arguments as for `run_sweep`.

    Raises:
        UserError: no sweep there, and what `run_sweep` refuses.
    """
    tree = read_spec(brought(directory, ("sweep.json",)))
    spec = SweepSpec.from_dict(tree["spec"])
    settings = {}
    if tree.get("settings"):
        known = Settings.from_tree(tree["settings"])
        settings = {item.name: getattr(known, item.name) for item in fields(known)}
    place = locate(directory)
    root = place.parent.url if isinstance(place, Remote) else Path(directory).parent
    return run_sweep(spec, root=root, tracking_uri=tracking_uri, quiet=quiet, **settings)

"""One call of a sweep's driver, step by step: open, plan, prepare, record, run, settle, close."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drorae.config import TrialConfig, to_dict
from drorae.errors import ClusterLostError, UserError
from drorae.runtime.signals import WORDS, Interrupted, Signals, Stopped
from drorae.storage.cache import Cache
from drorae.storage.files import write_json
from drorae.trial.folder import CONFIG, TrialStatus, read_outcome, ready_trial, write_ending
from sweeps.driver.cluster import (
    HeadWatch,
    alive_nodes,
    cluster_address,
    end_own_workers,
    ray_session,
    require_tune,
)
from sweeps.driver.home import Home
from sweeps.driver.notify import Event, Notifier
from sweeps.driver.outcome import SweepOutcome
from sweeps.driver.plan import SweepPlan, is_done, plan_shares
from sweeps.driver.preparation import Preparation
from sweeps.driver.pruning import Pruning
from sweeps.driver.queue import Listed
from sweeps.driver.retries import Retries
from sweeps.driver.screen import Screen
from sweeps.driver.session import Session
from sweeps.driver.until import Decided, Until
from sweeps.folder.lease import LeaseLostError
from sweeps.folder.sweep import RunAddress, SweepRecord
from sweeps.folder.table import charted_metrics, table_rows, write_table
from sweeps.packs import packs_of
from sweeps.resources import Share
from sweeps.settings import PREPARE, Asha, Settings
from sweeps.spec import SweepSpec
from sweeps.tracking.backlog import Backlog
from sweeps.tracking.client import check_nodes
from sweeps.tracking.sweep import SweepTracker
from sweeps.worker.attempt import Work

AWAIT_STORE_SECONDS = 120.0
"""After the last trial, a tracking server that is away is waited for so long."""


@dataclass
class Conductor:
    """One call of `run_sweep`, from the open folder to its end."""

    spec: SweepSpec
    basis: dict[str, TrialConfig]
    """The sweep's trials by config hash; of a search, those that it starts from."""
    settings: Settings
    home: Home
    screen: Screen
    signals: Signals
    go_on: str
    """The command that goes on with the sweep."""
    notifier: Notifier
    decided: Decided | None = None
    """Says whether the verdict that the settings name is decided; it ends the sweep."""
    until: Until | None = None
    plan: SweepPlan = field(init=False)
    session: Session = field(init=False)
    tracker: SweepTracker = field(init=False)
    address: RunAddress | None = None
    counts: dict[str, int] = field(default_factory=dict)
    charts: str = ""
    _new: bool = False
    _patience: float = 0.0
    _closed: threading.Lock = field(default_factory=threading.Lock)

    @property
    def configs(self) -> dict[str, TrialConfig]:
        """Every trial known so far, by config hash."""
        return self.plan.configs if hasattr(self, "plan") else self.basis

    @contextlib.contextmanager
    def last_words(self) -> Iterator[None]:
        """Says why the block ends before its time, and how to go on."""
        try:
            yield
        except (UserError, OSError) as error:
            self.screen.record(f"error: {error}")
            # A mistake in the very first call, or a full disk, leaves no folder behind.
            if self.address is None and not isinstance(error, LeaseLostError) and not self.home.lease.lost:
                self.home.discard(self._new)
            raise
        except ClusterLostError as error:
            text = f"{error}; {self.standing()}; to go on: {self.go_on}"
            self.screen.record(f"error: {text}")
            raise ClusterLostError(text) from error
        except (KeyboardInterrupt, SystemExit) as error:
            # What is left to do is the other's, and so is the command that goes on.
            self.home.lease.check()
            end = self.signals.meant(error)
            if isinstance(end, Interrupted | Stopped):
                self.screen.line(f"{WORDS[end.signum]}: {self.standing()}; to go on: ", self.go_on)
                end.said = True
            raise end from None

    def run(self, tracking_uri: str | None) -> SweepOutcome:
        """Runs what is missing, and leaves table and records in order, however it ends."""
        self._open()
        try:
            needs_ray = bool(self.plan.unprepared)
            with (
                ray_session(self.settings.resources.address, self.screen.line)
                if needs_ray
                else contextlib.nullcontext()
            ):
                self.signals.install()
                with HeadWatch(self.screen.line, self._leave) as watch:
                    try:
                        self._work(tracking_uri, watch)
                    except ClusterLostError:
                        # Ray may end the process while it is being left.
                        self._give_up()
                        raise
            self._patience = AWAIT_STORE_SECONDS
        finally:
            with self.signals.deferred():
                self._close()
        assert self.address is not None
        home, address = self.home, self.address
        return SweepOutcome(
            home.directory, home.table, self.counts, address.parent_run_id, address.tracking_uri, self.charts,
            home.mirror, self.until.line if self.until else "",
        )  # fmt: skip

    def _open(self) -> None:
        """Reads what the folder holds, and finds what is missing.

        Raises:
            UserError: it holds another sweep.
        """
        home, screen = self.home, self.screen
        home.pull()
        self._new = not home.record.exists()
        if self._new:
            # First of all, for others to see, and for the next call to go on with whatever ends this one.
            known = () if self.spec.search else tuple(self.basis)
            SweepRecord(uuid.uuid4().hex, self.spec, known, self.settings).write(home.directory)
            home.announce()
        self.plan = plan = SweepPlan(self.spec, self.basis, home)
        retries = Retries(self.settings.max_failures)
        self.session = Session(plan.configs, home.trials, plan.varied, screen, home.mirror, retries, home.lease.check)
        self.session.failed = self.notifier.failed
        self.session.stalls.minutes, self.session.roles = self.settings.stall_minutes, plan.roles
        screen.total = plan.total
        self._write_record()
        screen.line(f"{self.spec.name}: {screen.total} trials, results in ", str(home.place))
        settings = self.settings
        if settings.until and self.decided:
            self.until = Until(self.session, plan.missing, settings.until, self.decided)
            plan.missing = list(self.until.missing)
        # On a cluster the cache is of the nodes, where the preparation looks at it.
        if plan.unprepared and settings.prepare == PREPARE and not cluster_address(settings.resources.address):
            Cache(settings.runtime.cache_dir).check()
        if plan.missing:
            screen.line("what Ray and MLflow say goes to ", str(home.log))

    def _work(self, tracking_uri: str | None, watch: HeadWatch) -> None:
        """Prepares, records and trains what is missing."""

        def check() -> None:
            watch.check()
            self.home.lease.check()
            self.signals.check()

        settings, plan = self.settings, self.plan
        share_of = plan_shares([self.basis[key] for key in plan.missing], settings, self.home.mirror is None)
        preparation = Preparation(
            plan.unprepared, self.screen, settings.runtime, share_of, settings.prepare, self.home, check, plan.inputs()
        )
        preparation.start()
        # Making an MLflow store takes as long as the first worker's imports, and goes on beside them.
        self._open_tracking(tracking_uri)
        failed, rows = preparation.finish()
        self._move(failed)
        runnable = self._record(failed, rows)
        if runnable or (plan.studies is not None and plan.missing):
            self._train(runnable, share_of, check)
        if plan.studies is None and (damaged := self._damaged()):
            self._train(damaged, share_of, check)

    def _open_tracking(self, tracking_uri: str | None) -> None:
        self.screen.doing("opening MLflow")
        require_tune()
        plan = self.plan
        self.tracker = SweepTracker(
            self.spec.name, plan.sweep_id, self.home.directory.parent, tracking_uri, plan.known_address,
            self.screen.line, self.home.lease.check, plan.roles,
        )  # fmt: skip
        nodes = [node["NodeManagerAddress"] for node in alive_nodes()] if plan.unprepared else ()
        check_nodes(self.tracker.uri, nodes)

    def _move(self, failed: Mapping[str, str]) -> None:
        """Takes note of where data and weights lie now, once they are known to be the same."""
        for key in self.plan.moved:
            if key in failed:
                raise UserError(failed[key])
            self.home.lease.check()
            write_json(self.home.trials / key / CONFIG, to_dict(self.configs[key]))

    def _record(self, failed: Mapping[str, str], rows: Sequence[Mapping[str, float | str]]) -> list[str]:
        """Records what is done, readies the folders of what is missing, and returns the trials that can run.

        Args:
            failed: why the preparation of some failed, by config hash.
            rows: what the preparation reported.
        """
        plan, screen, tracker, trials = self.plan, self.screen, self.tracker, self.home.trials
        self.address = tracker.open_parent(f"{screen.total} trials", screen.line)
        tracker.rename(plan.former, screen.line)
        self._write_record()
        runnable: list[str] = []
        if plan.studies is None:
            for key in plan.missing:
                self.home.lease.check()
                ready_trial(trials / key, self.configs[key])
            self.home.lease.check()
            for key, reason in failed.items():
                write_ending(trials / key, TrialStatus.FAILED, reason)
                self.notifier.failed(f"{self.session.label(key)} {TrialStatus.FAILED}: {reason}")
            runnable = [key for key in plan.missing if key not in failed]
        self.session.send()
        tracker.log_preparation(rows)
        screen.doing("recording in MLflow")
        tracker.settle(list(self.configs.values()), trials, screen.line, frozenset(runnable), self.session.fetch)
        screen.done = self._done()
        if screen.done:
            screen.line(f"{screen.done} of {screen.total} trials are done already")
        if plan.studies is None:
            screen.done = screen.total - len(runnable)
        return runnable

    def _train(
        self, runnable: Sequence[str], share_of: Callable[[TrialConfig], Share], check: Callable[[], None]
    ) -> None:
        """Runs the trials that can run; `check` is called at every step."""
        from sweeps.driver.tune import Asker, TunePlan, run_trials

        assert self.address is not None
        settings, session, home = self.settings, self.session, self.home
        studies, pruner = self.plan.studies, settings.pruner_of(self.spec.search)
        session.expect(runnable, packs_of({key: self.configs[key] for key in runnable}, settings.pack, share_of))
        pruning = None
        if pruner != "none":
            group_of = (lambda key: self.spec.name) if studies is None else studies.group_of
            pruning = Pruning(home.studies, home.trials, group_of, pruner, settings.asha or Asha())
        remote = home.mirror.remote.url if home.mirror else ""
        work = Work(
            str(home.trials), settings.runtime, self.address, settings.run_trial, pruning is not None,
            session.packs, remote,
        )  # fmt: skip
        asker: Asker = studies or Listed(list(session.waiting), session.packs)
        if self.until is not None and not self.until.finished:
            self.until.keep(runnable)
            asker = self.until
        plan = TunePlan(asker, share_of, settings, pruning, check, lambda: home.lease.lost)
        self.screen.doing("training", session)
        backlog = Backlog(self._record_end)
        session.record = backlog.add
        try:
            run_trials(session, plan, work, home.ray)
        except BaseException:
            backlog.close(hurried=True)
            raise
        self.screen.doing("recording in MLflow")
        backlog.close(hurried=False)

    def _damaged(self) -> list[str]:
        """Says which results were damaged since they were written, and readies their trials to be measured again."""
        found = []
        for key, config in self.configs.items():
            outcome = read_outcome(self.home.trials / key)
            if outcome["status"] == TrialStatus.MISSING and outcome["reason"]:
                self.screen.line(f"{self.session.label(key)}: {outcome['reason'].partition(';')[0]}; measured again")
                ready_trial(self.home.trials / key, config)
                found.append(key)
        return found

    def _record_end(self, key: str) -> bool:
        """Records a trial that has ended, in a thread of its own."""
        self.session.fetch(key)
        return self.tracker.record(self.configs[key], self.home.trials / key, self.session.notice)

    def _close(self) -> None:
        """Writes the table and ends the runs, once; what goes wrong with MLflow is said and left for the next call."""
        home, screen = self.home, self.screen
        if self.address is None or home.lease.lost or not self._closed.acquire(blocking=False):
            return
        tracker, studies = self.tracker, self.plan.studies
        screen.doing("writing the table and the records")
        everything = list(self.configs.values())
        tuning = studies.roles() if studies else {}
        rows = table_rows(everything, home.trials, tuning, self.plan.roles)
        home.lease.check()
        self.counts = write_table(home.table, rows)
        self._write_record()
        tracker.await_store(self._patience, screen.line, lambda: self.signals.received is not None)
        tracker.settle(everything, home.trials, screen.line, fetch=self.session.fetch)
        tracker.tag_tuning(tuning, screen.line)
        self.charts = tracker.share_view(charted_metrics(rows), screen.line)
        tracker.close(self.counts, [home.table, home.record], screen.line)
        self.session.send()

    def _give_up(self) -> None:
        """Leaves everything in order once the cluster is lost: no worker of this one's begins a run after it."""
        end_own_workers()
        self._close()

    def _done(self) -> int:
        return sum(is_done(self.home.trials / key) for key in self.configs)

    def standing(self) -> str:
        """`3 of 12 trials are done`."""
        return f"{self._done()} of {max(self.screen.total, len(self.configs))} trials are done"

    def _leave(self, error: ClusterLostError) -> None:
        """Ends the process from a thread: the main one hangs in a call to Ray."""
        self._give_up()
        text = f"error: {error}; {self.standing()}; to go on: "
        self.screen.line(text, self.go_on)
        self.notifier.end(Event.ERROR, text + self.go_on)
        self.screen.close()
        os._exit(1)

    def _write_record(self) -> None:
        self.home.lease.check()
        plan, address = self.plan, self.address or self.plan.known_address
        record = SweepRecord(plan.sweep_id, self.spec, tuple(self.configs), self.settings, address, plan.former)
        record.write(self.home.directory)

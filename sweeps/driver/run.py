"""Runs a sweep's trials on Ray, from Python.

What is done is read from the trials' folders, not from Ray: the same command run again does what is missing and
nothing else, whatever became of the process that ran it before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from drorae.config import Runtime, TrialConfig
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.runtime.shell import command
from drorae.runtime.signals import Signals
from drorae.storage.files import naming_full_disk
from drorae.storage.remote import Remote, RemoteError, absolute, locate
from sweeps.checks import all_trials
from sweeps.driver.conductor import Conductor
from sweeps.driver.home import Home
from sweeps.driver.notify import Notifier, split_command
from sweeps.driver.outcome import SweepOutcome
from sweeps.driver.retries import RETRIES
from sweeps.driver.screen import open_screen
from sweeps.driver.until import Decided, check_until
from sweeps.folder.mirror import local_copy
from sweeps.folder.sweep import RECORD, read_record
from sweeps.packs import check_packs
from sweeps.resources import Resources
from sweeps.settings import PREPARE, RUN_TRIAL, Asha, Settings
from sweeps.spec import SweepSpec

_ONE = threading.Lock()
"""Held by the sweep that this process runs."""

__all__ = ["SweepOutcome", "resume_sweep", "run_sweep"]


def run_sweep(
    spec: SweepSpec,
    *,
    root: Path | str = Path("runs"),
    runtime: Runtime | None = None,
    resources: Resources | None = None,
    max_failures: int = RETRIES,
    asha: Asha | None = None,
    pruner: str = "none",
    tracking_uri: str | None = None,
    budget_hours: float = 0.0,
    stall_minutes: float = 0.0,
    pack: int = 0,
    until: str = "",
    decided: Decided | None = None,
    quiet: bool = False,
    notify: str | None = None,
    run_trial: str = RUN_TRIAL,
    prepare: str = PREPARE,
) -> SweepOutcome:
    """Runs what is missing of a sweep, and records everything in MLflow and in `<root>/<name>/trials.csv`.

    A trial that raises, or whose process or machine dies, is tried again from its checkpoint as long as it gets further
    than before, and `max_failures` times where it does not; then it is recorded as failed, while the sweep goes on. A
    later call tries it again. A UserError in a trial is recorded at once.

    Args:
        spec: the trials.
        root: folder of all sweeps, or a URL such as `s3://bucket/runs`; this one's folder is `<root>/<name>`.
        runtime: device, threads, cache; with threads 0 a trial uses its CPUs.
        resources: per trial and in all.
        max_failures: retries of a trial in a row that get no further; 0: none at all.
        asha: early stopping by ASHA with these rungs, where neither `pruner` nor a search names another.
        pruner: early stopping of a sweep without a search: none, median, hyperband or asha.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else `<root>/mlflow.db`.
        budget_hours: no trial is started once all calls have cost so many GPU (without GPUs: CPU) hours; 0: no limit.
        stall_minutes: a trial that reports nothing for so long has its worker ended, is tried again, and given up is
            `stalled`. 0: 20 times its slowest step and at least half an hour; where it has no steps, 6 hours.
        pack: phase 2 of up to so many trials is trained together (`sweeps.packs`); below 2: of each alone.
        until: name of a verdict, after which trials left are not needed (`sweeps.driver.until`); empty: run all.
        decided: judges it, as `drorae.commands.until.decided` does; a later call names it again.
        quiet: show nothing. Otherwise progress goes to stderr, in a notebook to the cell's output. What Ray, MLflow and
            other libraries print meanwhile goes to `driver.log` in the sweep's folder.
        notify: a command, split as a shell would, that is told how the sweep ends and of the first trial that fails for
            good (`sweeps.driver.notify`). It is not kept: a later call names it again.
        run_trial: `module:function` to call instead of drorae's, for tests and other tokenizers.
        prepare: the same for what trials share; called with (config, runtime, report).

    Raises:
        UserError: an unusable spec; another sweep of this name with other trials; another process at work on it, or
            another sweep in this one; resources that the machine lacks; an MLflow store that is away; no preparation.
        DiskFullError: there is no room for what the driver itself writes.
        LeaseLostError: another driver took the sweep over while this one was suspended.
        RemoteError: the store that holds the sweep's folder stays away.
        ClusterLostError: the head node of the Ray cluster is gone.
        KeyboardInterrupt, Stopped: Ctrl-C; TERM or HUP. The table is written and the runs are ended before.
    """
    given = resources or Resources(), max_failures, asha, budget_hours, run_trial, prepare, pruner, stall_minutes, pack
    with _only_one(spec.name):
        return _conduct(spec, Settings(runtime or Runtime(), *given, until), root, tracking_uri, quiet, notify, decided)


def resume_sweep(
    directory: Path | str,
    *,
    tracking_uri: str | None = None,
    quiet: bool = False,
    notify: str | None = None,
    until: str | None = None,
    decided: Decided | None = None,
) -> SweepOutcome:
    """Finishes a sweep from its folder or URL, with the settings it was started with; arguments as for `run_sweep`.

    until: another end than it was started with; None: the same.

    Raises:
        UserError: no sweep there, and what `run_sweep` refuses.
    """
    record = read_record(local_copy(directory, (RECORD,)))
    settings = dict(vars(record.settings)) if record.settings else {}
    if until is not None:
        settings["until"] = until
    place = locate(directory)
    root = place.parent.url if isinstance(place, Remote) else Path(directory).parent
    return run_sweep(
        record.spec, root=root, tracking_uri=tracking_uri, quiet=quiet, notify=notify, decided=decided, **settings
    )


@contextlib.contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Keeps the block the only sweep of this process.

    Raises:
        UserError: another thread runs one: Ray, its session and the streams that a screen takes are the process's.
    """
    if not _ONE.acquire(blocking=False):
        raise UserError(
            f"{name}: another sweep is running in this process; run one after the other, or each in a process of "
            "its own"
        )
    try:
        yield
    finally:
        _ONE.release()


def _conduct(
    spec: SweepSpec,
    settings: Settings,
    root: Path | str,
    tracking_uri: str | None,
    quiet: bool,
    notify: str | None,
    decided: Decided | None,
) -> SweepOutcome:
    """Runs a sweep on a screen of its own, alone at work in its folder."""
    words = split_command(notify)
    spec = replace(spec, base=settled(spec.base, _begun(root, spec)))
    basis = all_trials(spec)
    settings.check()
    check_packs(settings, spec.search, not isinstance(locate(root), Remote))
    check_until(settings, spec.search, decided, basis.values())
    runtime = settings.runtime
    settings = replace(settings, runtime=replace(runtime, cache_dir=absolute(runtime.cache_dir)))
    home = Home(root, spec.name)
    go_on = command("resume", spec.name, *(() if str(root) == "runs" else ("--root", root)))
    footer = f"Ctrl-C stops it; to go on: {go_on}"
    with (
        Signals() as signals,
        naming_full_disk(home.directory),
        open_screen(spec.name, home.log, footer, quiet, signals) as screen,
    ):
        notifier = Notifier(words, spec.name, str(home.place), go_on, screen.line)
        driver = Conductor(spec, basis, settings, home, screen, signals, go_on, notifier, decided)
        with notifier.ending(driver.standing, lambda: driver.counts), driver.last_words(), home.leased(screen.line):
            return driver.run(tracking_uri)


def _begun(root: Path | str, spec: SweepSpec) -> TrialConfig | None:
    """The base config of this sweep as it was begun, where it was and the machine has a say in it."""
    if settled(spec.base) == spec.base:
        return None
    with contextlib.suppress(UserError, RemoteError):
        return read_record(local_copy(locate(root) / spec.name, (RECORD,))).spec.base
    return None

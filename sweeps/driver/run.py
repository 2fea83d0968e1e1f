"""Runs a sweep's trials on Ray, from Python.

What is done is read from the trials' folders, not from Ray: the same command run again does what is missing and
nothing else, whatever became of the process that ran it before.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from drorae.config import Runtime, config_hash
from drorae.errors import UserError
from drorae.runtime.shell import command
from drorae.runtime.signals import Signals
from drorae.storage.files import naming_full_disk
from drorae.storage.remote import Remote, absolute, locate
from sweeps.driver.conductor import Conductor, SweepOutcome
from sweeps.driver.home import Home
from sweeps.driver.retries import RETRIES
from sweeps.driver.screen import open_screen
from sweeps.folder.mirror import local_copy
from sweeps.folder.sweep import RECORD, read_record
from sweeps.resources import Resources
from sweeps.settings import PREPARE, RUN_TRIAL, Asha, Settings
from sweeps.spec import SweepSpec, expand

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
    quiet: bool = False,
    run_trial: str = RUN_TRIAL,
    prepare: str = PREPARE,
) -> SweepOutcome:
    """Runs what is missing of a sweep, and records everything in MLflow and in `<root>/<name>/trials.csv`.

    A trial that raises, or whose process or machine dies, is tried again from its checkpoint as long as it gets further
    than before, and `max_failures` times where it does not; then it is recorded as failed, while the sweep goes on. A
    later call tries it again. A UserError in a trial is recorded at once.

    Args:
        spec: the trials.
        root: folder of all sweeps, or a URL such as `s3://bucket/runs` where no disk is shared. This one's folder is
            `<root>/<name>`.
        runtime: device, threads, cache; with threads 0 a trial uses its CPUs.
        resources: per trial and in all.
        max_failures: retries of a trial in a row that get no further; 0: none at all.
        asha: early stopping by ASHA with these rungs, where neither `pruner` nor a search names another.
        pruner: early stopping of a sweep without a search: none, median, hyperband or asha.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else `<root>/mlflow.db`.
        budget_hours: no trial is started once the sweep has cost so many GPU hours (CPU hours where trials have no
            GPU), all attempts of all calls counted; 0: no limit.
        stall_minutes: a trial that reports nothing for so long has its worker ended, and is tried again like one that
            died; given up, it is `stalled`. 0: 20 times the slowest step it has made, and at least half an hour; where
            it has no steps, as while it is measured, 6 hours.
        quiet: show nothing. Otherwise progress goes to stderr, in a notebook to the cell's output. What Ray, MLflow and
            other libraries print meanwhile goes to `driver.log` in the sweep's folder.
        run_trial: `module:function` to call instead of drorae's, for tests and other tokenizers.
        prepare: the same for what trials share; called with (config, runtime, report).

    Raises:
        UserError: an unusable spec; another sweep of this name with other trials; another process at work on it;
            another sweep in this process;
            resources that the machine lacks; an MLflow store that does not answer; or nothing can be prepared.
        DiskFullError: there is no room for what the driver itself writes.
        LeaseLostError: another driver took the sweep over while this one was suspended.
        RemoteError: the store that holds the sweep's folder stays away.
        ClusterLostError: the head node of the Ray cluster is gone.
        KeyboardInterrupt, Stopped: Ctrl-C; TERM or HUP. The table is written and the runs are ended before.
    """
    given = resources or Resources(), max_failures, asha, budget_hours, run_trial, prepare, pruner, stall_minutes
    return _conduct(spec, Settings(runtime or Runtime(), *given), root, tracking_uri, quiet)


def resume_sweep(directory: Path | str, *, tracking_uri: str | None = None, quiet: bool = False) -> SweepOutcome:
    """Finishes a sweep from its folder or URL, with the settings it was started with; arguments as for `run_sweep`.

    Raises:
        UserError: no sweep there, and what `run_sweep` refuses.
    """
    record = read_record(local_copy(directory, (RECORD,)))
    settings = vars(record.settings) if record.settings else {}
    place = locate(directory)
    root = place.parent.url if isinstance(place, Remote) else Path(directory).parent
    return run_sweep(record.spec, root=root, tracking_uri=tracking_uri, quiet=quiet, **settings)


def _conduct(
    spec: SweepSpec, settings: Settings, root: Path | str, tracking_uri: str | None, quiet: bool
) -> SweepOutcome:
    """Runs a sweep on a screen of its own, alone at work in its folder and in this process.

    Raises:
        UserError: another thread of this process runs one: Ray, its session and the streams that a screen takes are the
            process's.
    """
    if not _ONE.acquire(blocking=False):
        raise UserError(
            f"{spec.name}: another sweep is running in this process; run one after the other, or each in a process of "
            "its own"
        )
    try:
        return _conduct_alone(spec, settings, root, tracking_uri, quiet)
    finally:
        _ONE.release()


def _conduct_alone(
    spec: SweepSpec, settings: Settings, root: Path | str, tracking_uri: str | None, quiet: bool
) -> SweepOutcome:
    basis = {config_hash(config): config for config in expand(spec)}
    settings.check()
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
        driver = Conductor(spec, basis, settings, home, screen, signals, go_on)
        with driver.last_words(), home.leased(screen.line):
            return driver.run(tracking_uri)

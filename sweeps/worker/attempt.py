"""An attempt at a trial, as each of the trial's processes makes it: trained, recorded, and its errors written down."""

from __future__ import annotations

import contextlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, load_config
from drorae.errors import DiskFullError, UserError, notices_to, one_line
from drorae.redaction import redact
from drorae.storage.files import write_atomic
from drorae.training.rows import is_kept
from drorae.trial.folder import CONFIG, WARNINGS, TrialStatus, error_file, write_ending
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import RunAddress
from sweeps.resources import Share
from sweeps.tracking.recorder import Recorder
from sweeps.tracking.trial import TrialTracker
from sweeps.worker.heartbeat import heartbeat
from sweeps.worker.last_words import last_words
from sweeps.worker.pack import Report, train_pack


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of the sweep: paths and scalars only."""

    trials: str
    runtime: Runtime
    """With threads 0 a process uses its CPUs."""
    address: RunAddress
    run_trial: str
    """`module:function`."""
    report_epochs: bool
    """Tell Tune the mean loss of each epoch, for a scheduler to decide by."""
    packs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the trial that trains phase 2 for all of its pack, the others."""
    remote: str = ""
    """URL of the sweep's folder where that is in a store: `trials` is then the driver's own copy."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial."""

    work: Work
    key: str
    """The trial's config hash."""
    share: Share
    lease: Lease
    """On the trial's folder, held by the worker that the trial was given to."""
    number: int
    """1 for the first."""

    @property
    def directory(self) -> Path:
        """The trial's folder."""
        return Path(self.work.trials) / self.key


def threads(runtime: Runtime, share: Share) -> Runtime:
    """Returns the runtime with as many threads as a process of the trial has CPUs, where it leaves that open."""
    return replace(runtime, threads=runtime.threads or max(1, int(share.cpus / share.processes)))


def train(attempt: Attempt, runtime: Runtime, send: Callable[[dict[str, Any]], None], main: bool = True) -> bool:
    """Does one process's part in an attempt; returns False after a UserError, which is left as failure.json.

    Any other exception is raised, and stands in `error-<number>.txt`, one that leaves the process (`sys.exit`) among
    them; so is that of a full disk, which the next attempt waits for. A lost lease is raised, and leaves nothing.

    Args:
        attempt: the attempt.
        runtime: this process's device and threads.
        send: tells Tune the mean loss of an epoch.
        main: whether this process keeps the trial's progress and records it.
    """
    lease, directory = attempt.lease, attempt.directory
    config = load_config(directory / CONFIG)

    def warn(line: str) -> None:
        leave_warning(directory, line)

    epochs = _Epochs()
    with contextlib.ExitStack() as stack:
        heart = stack.enter_context(heartbeat(directory, attempt.share, lease)) if main else None
        tracker = TrialTracker(attempt.work.address, config, directory, warn) if main else None
        recorder = stack.enter_context(Recorder(tracker)) if tracker else None

        def report(row: dict[str, float | str]) -> None:
            lease.check()
            kept = is_kept(row)
            for listener in (heart, recorder if kept else None):
                if listener:
                    listener.report(row)
            if kept and attempt.work.report_epochs and (epoch := epochs.add(row)):
                if recorder:
                    recorder.keep()
                # Every process has the same rows, and Ray Train waits for all of them.
                try:
                    send(epoch)
                except SystemExit as stop:
                    # So Tune ends a trial that its scheduler has stopped.
                    raise _StoppedError from stop

        try:
            with notices(directory), last_words(directory):
                if failed := _train_pack(attempt, config, report, runtime):
                    warn(f"its pack is trained one by one: {failed}")
                pkgutil.resolve_name(attempt.work.run_trial)(config, report, directory=directory, runtime=runtime)
            fine = True
        except _StoppedError:
            sys.exit(0)
        except (Exception, SystemExit) as error:
            # The folder of one that was lost is another's.
            lease.check(now=True)
            if not _is_final(error, directory):
                with contextlib.suppress(OSError):
                    write_atomic(error_file(directory, attempt.number), redact(traceback.format_exc()).encode())
                if isinstance(error, SystemExit):
                    raise RuntimeError(f"SystemExit: {error}") from error
                raise
            fine = False
    return fine


def _train_pack(attempt: Attempt, config: TrialConfig, report: Report, runtime: Runtime) -> str:
    """Trains phase 2 for the whole pack that a trial leads, if any; returns why that failed."""
    if not (others := attempt.work.packs.get(attempt.key)):
        return ""
    if failed := train_pack(Path(attempt.work.trials), attempt.key, others, config, report, runtime):
        attempt.lease.check(now=True)
    return failed


def leave_warning(directory: Path, line: str) -> None:
    """Leaves a line in a trial's folder, for the driver to say."""
    # On a full disk, mostly one that says so: not worth the trial.
    with contextlib.suppress(OSError), (directory / WARNINGS).open("a") as file:
        file.write(redact(line) + "\n")


def notices(directory: Path) -> AbstractContextManager[None]:
    """Leaves what a trial came through in its folder, for the driver to say."""
    return notices_to(lambda notice: leave_warning(directory, str(notice)))


def _is_final(error: BaseException, directory: Path) -> bool:
    """Returns whether an error is the user's to mend, and recorded so; the next attempt waits for a full disk."""
    if not isinstance(error, UserError) or isinstance(error, DiskFullError):
        return False
    try:
        write_ending(directory, TrialStatus.FAILED, one_line(error))
    except OSError:
        return False
    return True


class _StoppedError(BaseException):
    """Tune's scheduler has stopped the trial."""


class _Epochs:
    """The mean training loss of each completed epoch of phase 2."""

    def __init__(self) -> None:
        self._epoch = 0
        self._losses: list[float] = []

    def add(self, row: Mapping[str, float | str]) -> dict[str, Any] | None:
        """Takes a row; returns the epoch's number and loss where the row completed one."""
        if row.get("phase") != "phase2" or "loss" not in row or "epoch" not in row:
            return None
        self._losses.append(float(row["loss"]))
        if int(float(row["epoch"])) <= self._epoch:
            return None
        # Rows of a long phase may lie epochs apart.
        self._epoch = int(float(row["epoch"]))
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        return {"epoch": self._epoch, "loss": mean}

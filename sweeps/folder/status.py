"""What a sweep is doing, from its folder alone: what is done, running, failed, missing; its cost, the time left.

A worker keeps `progress.json` in the folder of the trial it works on; everybody else reads.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from drorae.config import TrialConfig, load_config
from drorae.errors import UserError
from drorae.machine.needs import trial_flops
from drorae.storage.files import write_json
from drorae.storage.remote import locate
from drorae.trial.folder import read_outcome
from sweeps.driver.eta import ended_trial, running_trial, seconds_left
from sweeps.folder.lease import Lease, is_live
from sweeps.folder.mirror import OUTCOME, brought, in_trials
from sweeps.resources import Share
from sweeps.spec import point_label, varied_fields

PROGRESS = "progress.json"
DRIVER_LEASE = "driver.lease"
"""Held by the process that runs the sweep."""
BEAT_SECONDS = 2.0
STALE_SECONDS = 60.0
"""A trial whose progress is older is not being worked on any more."""
SAID = ("phase", "step", "total_steps", "loss", "images_per_second")
NOTED = ("phase", "note", "done", "total")
"""What progress.json keeps of a reported row with a step, and of one without."""


@dataclass(frozen=True)
class Cost:
    """What trials took of the machines, all attempts, the failed ones too."""

    seconds: float = 0.0
    """Wall seconds."""
    cpu_hours: float = 0.0
    """CPUs that a trial held, times hours."""
    gpu_hours: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds, self.cpu_hours + other.cpu_hours, self.gpu_hours + other.gpu_hours
        )  # fmt: skip


def read_progress(directory: Path) -> dict[str, Any]:
    """What a trial's worker last said; empty where none has."""
    try:
        tree = json.loads((directory / PROGRESS).read_text())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def read_cost(directory: Path) -> Cost:
    """What a trial has cost so far."""
    return _cost(read_progress(directory))


def _cost(tree: Mapping[str, Any]) -> Cost:
    return Cost(*(float(tree.get(name, 0.0)) for name in ("seconds", "cpu_hours", "gpu_hours")))


def _memory_bytes() -> float:
    """What this process holds: on CUDA of the GPUs, as far as torch has reserved it; else of main memory."""
    torch = sys.modules.get("torch")
    # Another thread may be importing torch at this moment, or may have broken the GPU's context.
    with contextlib.suppress(AttributeError, RuntimeError):
        if torch is not None and torch.cuda.is_initialized():
            return float(sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())))
    import psutil

    return float(psutil.Process().memory_info().rss)


class Sitting:
    """A worker at a trial: keeps its progress.json, also while no row is reported; a context manager.

    A worker that is killed has its last beat counted, and no more.
    """

    def __init__(self, directory: Path, share: Share, lease: Lease | None = None) -> None:
        self.directory, self.share, self.lease = directory, share, lease
        self._before = read_cost(directory)
        self._row: dict[str, Any] = {}
        # What a pace is taken from: the first step that was reported, in any sitting, and the seconds at the last.
        known = read_progress(directory)
        self._steps: dict[str, Any] = {name: known[name] for name in ("first_step",) if name in known}
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Sitting:
        self._write(running=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._write(running=False)

    def report(self, row: Mapping[str, float | str]) -> None:
        """Takes a reported row, which the next beat passes on.

        Raises:
            LeaseLost: this process was suspended for so long that another has taken the trial over.
        """
        if self.lease is not None:
            self.lease.check()
        names = SAID if "step" in row else NOTED
        self._row = {name: row[name] for name in names if name in row}
        if "total_steps" in row:
            seconds = self._before.seconds + time.monotonic() - self._started
            first = {name: row[name] for name in ("phase", "step", "total_steps") if name in row}
            self._steps.setdefault("first_step", first | {"seconds": seconds})
            self._steps["trained_seconds"] = seconds

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write(running=True)

    def _write(self, running: bool) -> None:
        if self.lease is not None and self.lease.lost:
            return
        here = time.monotonic() - self._started
        hours = here / 3600
        cost = self._before + Cost(here, hours * self.share.cpus, hours * self.share.gpus)
        tree = {"running": running, "updated": time.time(), **cost.__dict__, **self._row}
        tree |= {"memory_bytes": _memory_bytes(), **self._steps}
        try:
            write_json(self.directory / PROGRESS, tree)
        except OSError:
            # A full disk is the trial's to complain of.
            return


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker is at."""

    label: str
    """`capacity=8 seed=0`."""
    phase: str
    step: int
    total_steps: int
    note: str = ""
    """What it does where that has no steps: `encoding 3 of 10`."""
    loss: float | None = None
    images_per_second: float | None = None
    memory_bytes: float | None = None
    """Of the GPUs where it runs on one, else of main memory."""

    @staticmethod
    def from_progress(label: str, progress: Mapping[str, Any]) -> RunningTrial:
        """A trial from what its progress.json holds."""
        step, total, done, parts = (int(progress.get(name, 0)) for name in ("step", "total_steps", "done", "total"))
        note = str(progress.get("note", "")) + (f" {done} of {parts}" if parts > 1 else "")
        loss, speed, memory = (
            None if progress.get(name) is None else float(progress[name])
            for name in ("loss", "images_per_second", "memory_bytes")
        )
        return RunningTrial(label, str(progress.get("phase", "starting")), step, total, note, loss, speed, memory)


@dataclass(frozen=True)
class SweepState:
    """A sweep at this moment."""

    name: str
    counts: dict[str, int]
    """Trials per status: finished, unconverged, diverged, pruned, failed, running, missing."""
    running: tuple[RunningTrial, ...]
    failed: tuple[tuple[str, str], ...]
    """Label and reason."""
    driven: bool
    """Whether a driver is at work on this machine or on a disk it shares."""
    cost: Cost
    seconds_left: float | None
    """Estimated with as many at once as now (`sweeps.driver.eta`); None where nothing can be said yet."""
    damaged: tuple[tuple[str, str], ...] = ()
    """Label and reason of missing trials that have a result which cannot be read."""

    @property
    def total(self) -> int:
        """All trials known so far."""
        return sum(self.counts.values())

    def tree(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "counts": self.counts,
            "running": [item.__dict__ for item in self.running],
            "failed": [{"trial": label, "reason": reason} for label, reason in self.failed],
            "damaged": [{"trial": label, "reason": reason} for label, reason in self.damaged],
            "driven": self.driven,
            "cost": self.cost.__dict__,
            "seconds_left": self.seconds_left,
        }


def read_spec(directory: Path) -> dict[str, Any]:
    """The sweep.json of a sweep's folder: id, spec, trials, settings.

    Raises:
        UserError: no such file, or not readable.
    """
    path = directory / "sweep.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        others = sorted(item.parent.name for item in directory.parent.glob("*/sweep.json"))
        there = f"; sweeps in {directory.parent}: {', '.join(others)}" if others else ""
        raise UserError(f"{directory}: no sweep here; expected the sweep.json that a sweep writes{there}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); delete the folder or choose another --name") from None


def sweep_state(place: Path | str) -> SweepState:
    """The state of the sweep in a folder, or at a URL.

    Raises:
        UserError: no sweep there.
    """
    directory = brought(place, ("sweep.json", *in_trials(OUTCOME)))
    keys = read_spec(directory)["trials"]
    trials = directory / "trials"
    configs = {}
    for key in keys:
        # Absent before the trial is begun; a damaged one is written again with the next attempt.
        with contextlib.suppress(UserError):
            configs[key] = load_config(trials / key / "config.json")
    names = varied_fields(list(configs.values()))

    def label(key: str) -> str:
        return (point_label(configs[key], names) if key in configs else "") or key

    counts: Counter[str] = Counter()
    running, here, failed, damaged, ended = [], [], [], [], []
    waiting: list[float | None] = []
    cost = Cost()
    now = time.time()
    for key in keys:
        outcome, progress = read_outcome(trials / key), read_progress(trials / key)
        status, spent = outcome["status"], _cost(progress)
        cost += spent
        if status == "missing" and progress.get("running") and now - progress["updated"] < STALE_SECONDS:
            status = "running"
            here.append(running_trial(configs.get(key, TrialConfig()), progress))
            running.append(RunningTrial.from_progress(label(key), progress))
        elif status == "failed":
            failed.append((label(key), str(outcome["reason"])))
        elif status == "missing":
            damaged += [(label(key), str(outcome["reason"]))] if outcome["reason"] else []
            waiting.append(trial_flops(configs[key]) if key in configs else None)
        elif key in configs:
            ended.append(ended_trial(configs[key], spent.seconds, outcome))
        counts[status] += 1
    left = seconds_left(ended, here, waiting, len(here))
    driven = is_live(locate(place) / DRIVER_LEASE)
    return SweepState(
        directory.name, dict(counts), tuple(running), tuple(failed), driven, cost, left, tuple(damaged)
    )  # fmt: skip

"""What a sweep is doing, from its folder alone: what is done, running, failed, missing; its cost, the time left.

A worker keeps `progress.json` in the folder of the trial it works on; everybody else reads.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from drorae.config import load_config
from drorae.errors import UserError
from drorae.files import write_json
from drorae.remote import locate
from sweeps.lease import Lease, is_live
from sweeps.mirror import OUTCOME, brought, in_trials
from sweeps.resources import Share
from sweeps.spec import point_label, varied_fields
from sweeps.table import read_outcome

PROGRESS = "progress.json"
DRIVER_LEASE = "driver.lease"
"""Held by the process that runs the sweep."""
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A trial whose progress is older is not being worked on any more."""


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


class Sitting:
    """A worker at a trial: keeps its progress.json, also while no row is reported; a context manager.

    A worker that is killed has its last beat counted, and no more.
    """

    def __init__(self, directory: Path, share: Share, lease: Lease | None = None) -> None:
        self.directory, self.share, self.lease = directory, share, lease
        self._before = read_cost(directory)
        self._row: dict[str, Any] = {}
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
            RuntimeError: this process was suspended for so long that another has taken the trial over.
        """
        if self.lease is not None and self.lease.lost:
            raise RuntimeError("another process has taken this trial over")
        self._row = {name: row[name] for name in ("phase", "step", "total_steps") if name in row}

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write(running=True)

    def _write(self, running: bool) -> None:
        here = time.monotonic() - self._started
        hours = here / 3600
        cost = self._before + Cost(here, hours * self.share.cpus, hours * self.share.gpus)
        tree = {"running": running, "updated": time.time(), **cost.__dict__, **self._row}
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
    """Estimated from the trials that are done, with as many at once as now; None where nothing runs or is done."""

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
    configs = {
        key: load_config(trials / key / "config.json") for key in keys if (trials / key / "config.json").exists()
    }
    names = varied_fields(list(configs.values()))

    def label(key: str) -> str:
        return (point_label(configs[key], names) if key in configs else "") or key

    counts: Counter[str] = Counter()
    running, here, failed, seconds = [], [], [], []
    cost = Cost()
    now = time.time()
    for key in keys:
        outcome, progress = read_outcome(trials / key), read_progress(trials / key)
        status, spent = outcome["status"], _cost(progress)
        cost += spent
        if status == "missing" and progress.get("running") and now - progress["updated"] < STALE_SECONDS:
            status = "running"
            step, total = (int(progress.get(name, 0)) for name in ("step", "total_steps"))
            here.append(spent.seconds)
            running.append(RunningTrial(label(key), str(progress.get("phase", "starting")), step, total))
        elif status == "failed":
            failed.append((label(key), str(outcome["reason"])))
        elif status != "missing":
            seconds.append(spent.seconds)
        counts[status] += 1
    left = None
    if running and seconds:
        mean = sum(seconds) / len(seconds)
        ahead = sum(max(0.0, mean - spent) for spent in here)
        left = (counts["missing"] * mean + ahead) / len(running)
    elif not counts["missing"] and not running:
        left = 0.0
    driven = is_live(locate(place) / DRIVER_LEASE)
    return SweepState(directory.name, dict(counts), tuple(running), tuple(failed), driven, cost, left)

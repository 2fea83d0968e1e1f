"""A worker's sign of life: the progress.json of the trial it is at, also while the trial reports nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drorae.runtime.repeat import every
from drorae.training.rows import HELD_OUT_PSNR, is_held_out
from drorae.trial.folder import PROGRESS, write_tree
from sweeps.folder.lease import Lease
from sweeps.folder.progress import Cost, Reached, read_cost, read_progress
from sweeps.resources import Share

BEAT_SECONDS = 2.0
STEP_FIELDS = ("phase", "step", "total_steps", "loss", "images_per_second")
NOTE_FIELDS = ("phase", "note", "done", "total")
"""What progress.json keeps of a reported row with a step, and of one without."""
KEPT_FIELDS = ("first_step", "slowest_seconds", HELD_OUT_PSNR)
"""What the next attempt goes on with."""


class Heartbeat:
    """Keeps progress.json: where the trial is, and what all attempts at it have cost.

    A worker that is killed has its last beat counted, and no more.

    Args:
        directory: the trial's folder.
        share: what the trial holds of the machines, for its cost.
        lease: the worker's lease on the folder: once it is lost, nothing more is written.
    """

    def __init__(self, directory: Path, share: Share, lease: Lease) -> None:
        self.directory, self.share, self.lease = directory, share, lease
        self._before = read_cost(directory)
        self._reached = Reached(directory)
        self._row: dict[str, Any] = {}
        # What a pace is taken from: the first step that was reported, in any attempt, and the seconds at the last.
        known = read_progress(directory)
        self._steps: dict[str, Any] = {name: known[name] for name in KEPT_FIELDS if name in known}
        self._stepped: float | None = None
        self._started = time.monotonic()

    def report(self, row: Mapping[str, float | str]) -> None:
        """Takes a reported row, which the next beat passes on."""
        if is_held_out(row):
            # Beside the steps, which go on.
            self._steps |= {"reported": time.time(), HELD_OUT_PSNR: row.get(HELD_OUT_PSNR)}
            return
        self._row = _take(row, STEP_FIELDS if "step" in row else NOTE_FIELDS)
        if not self.lease.lost:
            self._reached.report(row)
        self._steps["reported"] = time.time()
        now, before = time.monotonic(), self._stepped
        self._stepped = now if "total_steps" in row else None
        if self._stepped is not None and before is not None:
            self._steps["slowest_seconds"] = max(self._steps.get("slowest_seconds", 0.0), now - before)
        if "total_steps" in row:
            seconds = self._before.seconds + time.monotonic() - self._started
            self._steps.setdefault("first_step", _take(row, STEP_FIELDS[:3]) | {"seconds": seconds})
            self._steps["trained_seconds"] = seconds

    def write(self, running: bool) -> None:
        """Writes progress.json.

        Args:
            running: whether the worker goes on with the trial.
        """
        if self.lease.lost:
            return
        seconds = time.monotonic() - self._started
        hours = seconds / 3600
        cost = self._before + Cost(seconds, hours * self.share.cpus, hours * self.share.gpus)
        tree = {"running": running, "updated": time.time(), **cost.__dict__, **self._row}
        # A full disk is the trial's to complain of.
        with contextlib.suppress(OSError):
            write_tree(self.directory, PROGRESS, tree | {"memory_bytes": _memory_bytes(), **self._steps})


@contextlib.contextmanager
def heartbeat(directory: Path, share: Share, lease: Lease) -> Iterator[Heartbeat]:
    """Writes a trial's progress.json every `BEAT_SECONDS` for the time of the block; arguments as for `Heartbeat`."""
    heart = Heartbeat(directory, share, lease)
    heart.write(running=True)
    try:
        with every(BEAT_SECONDS, lambda: heart.write(running=True)):
            yield heart
    finally:
        heart.write(running=False)


def _take(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _memory_bytes() -> float:
    """Returns what this process holds: on CUDA of the GPUs, as far as torch has reserved it; else of main memory."""
    torch = sys.modules.get("torch")
    # Another thread may be importing torch at this moment, or may have broken the GPU's context.
    with contextlib.suppress(AttributeError, RuntimeError):
        if torch is not None and torch.cuda.is_initialized():
            return float(sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())))
    import psutil

    return float(psutil.Process().memory_info().rss)

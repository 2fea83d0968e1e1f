"""How far a sweep's trials are, and what they cost: what their workers keep in `progress.json`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drorae.errors import UserError
from drorae.training.rows import HELD_OUT_PSNR
from drorae.trial.folder import PROGRESS, REACHED, read_tree


@dataclass(frozen=True)
class Cost:
    """What trials took of the machines, all attempts, the failed ones too."""

    seconds: float = 0.0
    """Wall seconds."""
    cpu_hours: float = 0.0
    """CPUs that a trial held, times hours."""
    gpu_hours: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dict__))


def read_progress(directory: Path) -> dict[str, Any]:
    """Returns what a trial's worker last said; an empty dictionary where none has."""
    try:
        return read_tree(directory, PROGRESS)
    except (OSError, ValueError, UserError):
        return {}


def read_cost(directory: Path) -> Cost:
    """Returns what a trial has cost so far."""
    return progress_cost(read_progress(directory))


def progress_cost(progress: Mapping[str, Any]) -> Cost:
    """Returns what a trial has cost by what its progress.json holds."""
    return Cost(*(float(progress.get(name, 0.0)) for name in Cost.__dataclass_fields__))


def is_training(progress: Mapping[str, Any]) -> bool:
    """Returns whether a trial is amid the steps of a phase, by what its progress.json holds."""
    return 0 <= float(progress.get("step", 0)) < float(progress.get("total_steps", 0))


def read_reached(directory: Path) -> dict[str, float]:
    """Returns the furthest step that any attempt at a trial came to, by phase; empty where none reported anything."""
    try:
        return {str(phase): float(step) for phase, step in json.loads((directory / REACHED).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class Reached:
    """Keeps how far any attempt at a trial got, to the very step: what is killed next has it written.

    Args:
        directory: the trial's folder.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / REACHED
        self._steps = read_reached(directory)

    def report(self, row: Mapping[str, Any]) -> None:
        """Takes a reported row; one that is further than all before it is written."""
        phase, step = str(row.get("phase", "")), float(row.get("step", row.get("done", 0.0)))
        if step <= self._steps.get(phase, -1.0):
            return
        self._steps[phase] = step
        # In place and without waiting for the disk, at every step: it only has to outlive this process.
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                content = json.dumps(self._steps).encode()
                os.ftruncate(file, os.pwrite(file, content, 0))
            finally:
                os.close(file)


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
    silence: str = ""
    """That it has made no step for long, where it has not."""
    held_out_psnr: float | None = None
    """Of held-out images, in dB, when it was last measured; None where it was not."""

    @staticmethod
    def from_progress(label: str, progress: Mapping[str, Any], silence: str = "") -> RunningTrial:
        """Returns a trial as what its progress.json holds has it."""
        step, total, done, parts = (int(progress.get(name, 0)) for name in ("step", "total_steps", "done", "total"))
        note = str(progress.get("note", "")) + (f" {done} of {parts}" if parts > 1 else "")
        loss, speed, memory = (progress.get(name) for name in ("loss", "images_per_second", "memory_bytes"))
        phase = str(progress.get("phase", "starting"))
        psnr = progress.get(HELD_OUT_PSNR)
        return RunningTrial(label, phase, step, total, note, loss, speed, memory, silence, psnr)

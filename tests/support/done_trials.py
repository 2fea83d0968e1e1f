"""Trials of a sweep, done by the stand-in within milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fake_trial import run_trial

from drorae.config import PRESETS, Runtime, TrialConfig, config_hash, override
from drorae.storage.files import write_json
from drorae.trial.folder import ready_trial
from sweeps.spec import Axis, SweepSpec

BASE = override(PRESETS["smoke"], "encoder.path", "sleep=0")


def spec_of(name: str, capacities: Sequence[int] = (4, 8)) -> SweepSpec:
    return SweepSpec(name, BASE, (Axis("capacity", tuple(capacities)),))


def begin(trials: Path, config: TrialConfig) -> Path:
    """The folder of a trial that has only been readied."""
    directory = trials / config_hash(config)
    ready_trial(directory, config)
    return directory


def finish(trials: Path, config: TrialConfig, seconds: float = 0.0) -> Path:
    """The folder of a finished trial; `seconds`: what it took, of one CPU."""
    directory = begin(trials, config)
    run_trial(config, lambda row: None, directory=directory, runtime=Runtime())
    write_json(directory / "progress.json", {"running": False, "seconds": seconds, "cpu_hours": seconds / 3600})
    return directory

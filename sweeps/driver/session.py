"""What the driver knows while trials run, and what it makes of a trial that has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drorae.config import TrialConfig
from drorae.errors import OF_IMAGES, last_line
from drorae.machine.needs import trial_flops
from drorae.metrics.registry import METRICS
from drorae.storage.files import ROOM_BYTES, full_disk, has_room
from drorae.storage.remote import RemoteError, patiently
from drorae.trial.folder import (
    MEASURED,
    PROGRESS,
    WARNINGS,
    TrialStatus,
    Use,
    error_files,
    files_for,
    read_outcome,
    write_ending,
)
from sweeps.driver.console import duration
from sweeps.driver.eta import Ended, ended_trial, running_trial, seconds_left
from sweeps.driver.preparation import DIED
from sweeps.driver.screen import Screen
from sweeps.folder.mirror import REPORT_FILES, Mirror
from sweeps.folder.progress import Cost, RunningTrial, read_cost, read_progress
from sweeps.folder.sweep import trial_place
from sweeps.spec import point_label
from sweeps.tracking.client import complaint

RECORDED_FILES = files_for(Use.STATE | Use.DRIVER | Use.ARTIFACT | Use.DRAWN)
"""What recording a trial's end needs."""
STORE_ERRORS = (
    "drorae.storage.remote.RemoteError: ",
    "drorae.errors.UserError: ",
    "sweeps.folder.lease.LeaseLostError: ",
)
"""How the line of a traceback begins that says why a worker could not begin or end."""
ANNOUNCED_METRICS = tuple(metric.name for metric in METRICS if metric.announced)
STOPPED_EARLY = (
    "stopped early by the scheduler; rename this trial's pruned.json and sweep without early stopping to run it"
)
FETCH_SECONDS = 10.0
"""Between two looks at a store for how far running trials are."""


@dataclass
class Session:
    """What the driver knows while trials run."""

    configs: dict[str, TrialConfig]
    trials: Path
    varied: list[str]
    screen: Screen
    mirror: Mirror | None
    waiting: dict[str, float] = field(default_factory=dict)
    """`trial_flops` of the trials that no worker has been started for, in order, as far as they are known before."""
    started: dict[str, float] = field(default_factory=dict)
    """When each trial that runs was started."""
    costs: dict[str, Cost] = field(default_factory=dict)
    raised: dict[str, int] = field(default_factory=dict)
    """Errors that each trial has left, as far as they were looked at."""
    tune_trials: dict[str, Any] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    """Trials with a result, for the estimate of what the others will take."""
    at_once: int = 1
    """Most trials that were seen to run together."""
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the workers of the trials that run said last, as `running` found it."""
    record: Callable[[str], None] = lambda key: None
    """Takes a trial that has ended, to be recorded."""
    said: set[str] = field(default_factory=set)
    """What trials have in common, as far as it was said."""
    fetched: float = 0.0
    """When the store was last asked how far running trials are."""

    def begin(self, key: str, tune_trial: Any) -> None:
        """A worker is started for a trial."""
        self.started[key] = time.monotonic()
        self.tune_trials[key] = tune_trial
        self.waiting.pop(key, None)
        self.at_once = max(self.at_once, len(self.started))

    def end(self, key: str, died: bool) -> None:
        """Says what became of a trial that Tune has ended, and records why it left no result."""
        self.conclude(key, died)
        directory = self.trials / key
        outcome = read_outcome(directory)
        if outcome["status"] in (TrialStatus.FAILED, TrialStatus.PRUNED, TrialStatus.DIVERGED):
            said = f"{outcome['status']}: {outcome.get('reason', '')}"
        else:
            shown = {name: outcome.get("metrics", {}).get(name) for name in ANNOUNCED_METRICS}
            said = " ".join(f"{name}={value:.4g}" for name, value in shown.items() if value is not None)
            if outcome["status"] != TrialStatus.FINISHED:
                said += f" {outcome['status']}"
            self.ended.append(ended_trial(self.configs[key], read_cost(directory).seconds, outcome))
        seconds = duration(time.monotonic() - self.started.pop(key, time.monotonic()))
        self.costs.pop(key, None)
        self.screen.ended(f"{self.label(key)} {said} {seconds}")
        warnings = directory / WARNINGS
        if warnings.is_file():
            for line in dict.fromkeys(warnings.read_text().splitlines()):
                self.notice(line, f"{self.label(key)}: ")
            warnings.unlink()
        self.record(key)

    def notice(self, line: str, whose: str = "") -> None:
        """Says a line that a trial left; of a store, and of the images, once a sweep, for all trials say the same."""
        about = line if line.startswith(OF_IMAGES) else complaint(line)
        if about not in self.said:
            self.screen.line(line if about else whose + line)
        if about:
            self.said.add(about)

    def expect(self, listed: Sequence[str]) -> None:
        """Prepares the estimate of the time left: takes trials in that ended before this call.

        Args:
            listed: trials to run, in order, as far as they are known.
        """
        self.waiting = {key: trial_flops(self.configs[key]) for key in listed}
        for key in self.configs.keys() - self.waiting.keys():
            outcome = read_outcome(self.trials / key)
            seconds = read_cost(self.trials / key).seconds
            if outcome["status"] in MEASURED and seconds:
                self.ended.append(ended_trial(self.configs[key], seconds, outcome))

    def running(self) -> list[RunningTrial]:
        """What the workers of the trials that run said last."""
        keys = list(self.started)
        if self.mirror is not None and time.monotonic() - self.fetched > FETCH_SECONDS:
            for key in keys:
                with contextlib.suppress(RemoteError):
                    self.mirror.pull(trial_place(key), (PROGRESS,))
            self.fetched = time.monotonic()
        self.progress = {key: read_progress(self.trials / key) for key in keys}
        return [RunningTrial.from_progress(self.label(key), progress) for key, progress in self.progress.items()]

    def seconds_left(self) -> float | None:
        """Estimated time to the end of the last trial; None while nothing is known."""
        running = [running_trial(self.configs[key], self.progress.get(key, {})) for key in list(self.started)]
        known = list(self.waiting.values())
        unknown = self.screen.total - self.screen.done - len(running) - len(known)
        return seconds_left(self.ended, running, [*known, *[None] * max(unknown, 0)], max(self.at_once, len(running)))

    def fetch(self, key: str, names: Sequence[str] = RECORDED_FILES) -> None:
        """Brings files of a trial here, where the sweep's folder is in a store."""
        if self.mirror is not None:
            pull = self.mirror.pull
            patiently(lambda: pull(trial_place(key), names))

    def send(self, under: str = "") -> None:
        """Sends what changed in the sweep's folder, where that is in a store."""
        if self.mirror is not None:
            push = self.mirror.push
            patiently(lambda: push(under))

    def label(self, key: str) -> str:
        """`capacity=8 seed=0`."""
        return point_label(self.configs[key], self.varied or ["fusion.expert_hidden_dim"])

    def over_budget(self, hours: float) -> bool:
        """Whether the sweep has cost so many GPU hours, or CPU hours where no trial had a GPU; 0 is no limit."""
        if not hours:
            return False
        for key in self.configs:
            # This is asked before every trial: files of those that nobody works on are read once.
            if key in self.started or key not in self.costs:
                if key in self.started:
                    self.fetch(key, (PROGRESS,))
                self.costs[key] = read_cost(self.trials / key)
        gpu_hours = sum(cost.gpu_hours for cost in self.costs.values())
        return (gpu_hours or sum(cost.cpu_hours for cost in self.costs.values())) >= hours

    def reason(self, key: str) -> str:
        """Why the last attempt at a trial ended without a result."""
        errors = error_files(self.trials / key)
        before, self.raised[key] = self.raised.get(key, 0), len(errors)
        if len(errors) > before:
            return last_line(errors[-1].read_text()) or "unknown error"
        # A worker that a store keeps from the trial's folder cannot leave a word there.
        told = getattr(self.tune_trials.get(key), "error_file", None)
        lines = Path(told).read_text().splitlines() if told and Path(told).is_file() else []
        away = next((line.partition(": ")[2] for line in reversed(lines) if line.startswith(STORE_ERRORS)), "")
        if away:
            return away
        # An attempt that left no word of what it raised had no time to, or no room.
        directory = self.trials / key
        return DIED if has_room(directory, ROOM_BYTES) else full_disk(directory)

    def conclude(self, key: str, died: bool) -> None:
        """Leaves failure.json or pruned.json where a trial that Tune has ended left no result."""
        directory = self.trials / key
        if read_outcome(directory)["status"] == TrialStatus.MISSING:
            self.fetch(key, REPORT_FILES)
        if read_outcome(directory)["status"] != TrialStatus.MISSING:
            return
        status, reason = (TrialStatus.FAILED, self.reason(key)) if died else (TrialStatus.PRUNED, STOPPED_EARLY)
        try:
            write_ending(directory, status, reason)
            self.send(trial_place(key))
        except OSError as error:
            # It stays missing, and the next call tries it again.
            self.screen.line(f"{self.label(key)}: {reason}; not recorded ({error.strerror or error})")

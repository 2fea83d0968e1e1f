"""What the driver knows while trials run, and what it makes of a trial that has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drorae.config import UNTRAINED, GenerationConfig, TrialConfig
from drorae.errors import OF_IMAGES, last_line
from drorae.machine.extent import trial_flops
from drorae.metrics.gain import gain_of
from drorae.metrics.registry import GAIN, METRICS, mark, marked
from drorae.storage.files import ROOM_BYTES, full_disk, has_room
from drorae.storage.remote import RemoteError, patiently
from drorae.trial.folder import (
    BROKEN,
    MEASURED,
    PROGRESS,
    RESULT,
    WARNINGS,
    TrialStatus,
    Use,
    error_files,
    files_for,
    read_outcome,
    write_ending,
)
from drorae.trial.result import PACKED
from sweeps.driver.console import duration
from sweeps.driver.deaths import error_of, why_died
from sweeps.driver.eta import Ended, ended_trial, running_trial, seconds_left
from sweeps.driver.retries import Retries
from sweeps.driver.screen import Screen
from sweeps.driver.stalls import Stalls, silence
from sweeps.folder.mirror import REPORT_FILES, Mirror
from sweeps.folder.progress import Cost, RunningTrial, read_cost, read_progress, read_reached
from sweeps.folder.sweep import trial_place
from sweeps.folder.table import networks_of
from sweeps.packs import Packs, in_order
from sweeps.spec import point_label
from sweeps.tracking.client import complaint
from sweeps.worker.last_words import take_last_words

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
NO_RESULT = f"the trial's function returned and left no {RESULT}; mend it, and run the sweep again"
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
    retries: Retries = field(default_factory=Retries)
    check: Callable[[], None] = lambda: None
    """Called before a trial's folder is written to; raises where the sweep is another driver's by now."""
    stalls: Stalls = field(default_factory=Stalls)
    roles: Mapping[str, str] = field(default_factory=dict)
    """What trials that are no points of the law are there for."""
    packs: Packs = field(default_factory=dict)
    """Which trials train phase 2 for others, too."""
    stalled: dict[str, str] = field(default_factory=dict)
    """Trials whose worker was ended because they made no step, and how long."""
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
    stopped: set[str] = field(default_factory=set)
    """Trials that a scheduler has ended early."""
    at_once: int = 1
    """Most trials that were seen to run together."""
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the workers of the trials that run said last, as `running` found it."""
    record: Callable[[str], None] = lambda key: None
    """Takes a trial that has ended, to be recorded."""
    failed: Callable[[str], None] = lambda text: None
    """Takes a line about a trial that has failed for good."""
    said: set[str] = field(default_factory=set)
    """What trials have in common, as far as it was said."""
    fetched: float = 0.0
    """When the store was last asked how far running trials are."""

    def begin(self, key: str, tune_trial: Any) -> None:
        """A worker is started for a trial."""
        self.started[key] = time.monotonic()
        self.tune_trials[key] = tune_trial
        self.retries.begin(key, read_reached(self.trials / key))
        self.waiting.pop(key, None)
        self.at_once = max(self.at_once, len(self.started))

    def size(self, key: str) -> float:
        """Returns `trial_flops` of what a trial's worker has to train: its phase 2 may be a pack's."""
        others = self.packs.get(key, ())
        own = self.configs[key]
        if any(key in pack for pack in self.packs.values()):
            own = replace(own, phase2=UNTRAINED)
        later = [replace(self.configs[other], phase3=UNTRAINED, generator=GenerationConfig()) for other in others]
        return sum(trial_flops(config) for config in (own, *later))

    def find_stalled(self) -> list[Any]:
        """Returns the Tune trials that have newly stalled: their workers are to be ended."""
        found = []
        for key in self.started:
            if said := self.stalls.look(key, self.progress.get(key, {}), time.monotonic()):
                self.stalled[key] = said
                found.append(self.tune_trials[key])
        return found

    def goes_on(self, key: str) -> bool:
        """Says that a trial is tried again after an attempt that left no result, or records that it is given up."""
        self.fetch(key, REPORT_FILES)
        directory, status, reason = self.trials / key, *self._fault(key)
        self.stalls.forget(key)
        counts = not getattr(error_of(self.tune_trials.get(key)), "preempted", False)
        if self.retries.goes_on(key, read_reached(directory), counts):
            self.screen.line(f"{self.label(key)}: tried again ({reason})")
            return True
        self._record(key, status, reason)
        return False

    def _fault(self, key: str) -> tuple[TrialStatus, str]:
        """What an attempt that left no result makes of its trial, and why."""
        reason = self.reason(key)
        if stalled := self.stalled.pop(key, ""):
            return TrialStatus.STALLED, stalled
        return TrialStatus.FAILED, reason

    def end(self, key: str, died: bool) -> None:
        """Says what became of a trial that Tune has ended, and records why it left no result."""
        self.conclude(key, died)
        directory = self.trials / key
        outcome = read_outcome(directory)
        if outcome["status"] not in MEASURED:
            said = f"{outcome['status']}: {outcome.get('reason', '')}"
            if outcome["status"] in BROKEN:
                self.failed(f"{self.label(key)} {said}")
        else:
            shown = {name: outcome.get("metrics", {}).get(name) for name in ANNOUNCED_METRICS}
            seen = [networks_of(self.configs[key], outcome)]
            said = " ".join(
                marked(f"{name}={value:.4g}", mark(name, seen)) for name, value in shown.items() if value is not None
            )
            gained = {name: gain_of(outcome.get("gain", {}), name, outcome.get("eval_images", 0)) for name in shown}
            said += next((f" {GAIN}{name}={gain}" for name, gain in gained.items() if gain is not None), "")
            if outcome["status"] != TrialStatus.FINISHED:
                said += f" {outcome['status']}"
            ended = ended_trial(self.configs[key], read_cost(directory).seconds, outcome)
            self.ended.append(replace(ended, size=self.size(key)))
        seconds = duration(time.monotonic() - self.started.pop(key, time.monotonic()))
        self.costs.pop(key, None)
        self.stalls.forget(key)
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

    def expect(self, listed: Sequence[str], packs: Packs | None = None) -> None:
        """Puts trials in order, and prepares the estimate of the time left: takes those in that ended before this call.

        Args:
            listed: trials to run, as far as they are known.
            packs: those that train phase 2 for others, too.
        """
        self.packs = packs or {}
        if self.packs:
            self.screen.line(f"{len(self.packs)} packs of trials train phase 2 together")
        self.waiting = {key: self.size(key) for key in in_order(listed, self.packs)}
        for key in self.configs.keys() - self.waiting.keys():
            outcome = read_outcome(self.trials / key)
            seconds = read_cost(self.trials / key).seconds
            if PACKED in outcome.get("provenance", {}):
                # Its phase 2 was trained by another trial's worker, or its worker trained others', too.
                seconds = outcome.get("train_seconds", 0.0) + outcome.get("eval_seconds", 0.0)
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
        return [
            RunningTrial.from_progress(self.label(key), progress, silence(progress))
            for key, progress in self.progress.items()
        ]

    def seconds_left(self) -> float | None:
        """Estimated time to the end of the last trial; None while nothing is known."""
        running = [
            replace(running_trial(self.configs[key], self.progress.get(key, {})), size=self.size(key))
            for key in list(self.started)
        ]
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
        """`capacity=8 seed=0`; `capacity=8 seed=0 (convergence)` of one that is no point of the law."""
        label = point_label(self.configs[key], self.varied or ["fusion.expert_hidden_dim"])
        return f"{label} ({self.roles[key]})" if key in self.roles else label

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
        if not has_room(directory, ROOM_BYTES):
            return full_disk(directory)
        return take_last_words(directory) or why_died(error_of(self.tune_trials.get(key)))

    def conclude(self, key: str, died: bool) -> None:
        """Records why a trial that Tune has ended left no result, where it left none."""
        directory = self.trials / key
        if read_outcome(directory)["status"] == TrialStatus.MISSING:
            self.fetch(key, REPORT_FILES)
        if read_outcome(directory)["status"] != TrialStatus.MISSING:
            return
        if died:
            self._record(key, *self._fault(key))
        elif key in self.stopped:
            self._record(key, TrialStatus.PRUNED, STOPPED_EARLY)
        else:
            self._record(key, TrialStatus.NO_RESULT, NO_RESULT)

    def _record(self, key: str, status: TrialStatus, reason: str) -> None:
        self.check()
        try:
            write_ending(self.trials / key, status, reason)
            self.send(trial_place(key))
        except OSError as error:
            # It stays missing, and the next call tries it again.
            self.screen.line(f"{self.label(key)}: {reason}; not recorded ({error.strerror or error})")

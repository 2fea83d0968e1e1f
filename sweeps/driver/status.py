"""What a sweep is doing, from its folder alone: what is done, running, failed, missing; its cost, the time left."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drorae.config import TrialConfig, load_config
from drorae.errors import UserError
from drorae.machine.extent import trial_flops
from drorae.storage.remote import Remote, locate
from drorae.trial.folder import BROKEN, CONFIG, LEASE, TrialStatus, Use, files_for, read_outcome
from sweeps.driver.eta import ended_trial, running_trial, seconds_left
from sweeps.driver.stalls import silence
from sweeps.folder.lease import are_live
from sweeps.folder.mirror import local_copy
from sweeps.folder.progress import Cost, RunningTrial, progress_cost, read_progress
from sweeps.folder.sweep import DRIVER_LEASE, RECORD, TRIALS, in_trials, read_record, trial_place
from sweeps.spec import point_label, varied_fields


@dataclass(frozen=True)
class SweepState:
    """A sweep at this moment."""

    name: str
    counts: dict[str, int]
    """Trials per status: any of `TrialStatus`."""
    running: tuple[RunningTrial, ...]
    failed: tuple[tuple[str, str, str], ...]
    """Label, reason and status of trials that are broken, or whose metrics are not numbers."""
    damaged: tuple[tuple[str, str], ...]
    """Label and reason of missing trials that have a result which cannot be read."""
    driven: bool
    """Whether a driver is at work, on whatever machine."""
    cost: Cost
    seconds_left: float | None
    """Estimated with as many at once as now (`sweeps.driver.eta`); None where nothing can be said yet."""
    decided: str = ""
    """Why trials are not needed, where some are not."""

    @property
    def total(self) -> int:
        """All trials known so far."""
        return sum(self.counts.values())

    def tree(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        names = ("trial", "reason", "status")
        reasons = {TrialStatus.FAILED.value: self.failed, "damaged": self.damaged}
        return asdict(self) | {
            name: [dict(zip(names, texts, strict=False)) for texts in found] for name, found in reasons.items()
        }


def sweep_state(place: Path | str) -> SweepState:
    """Returns the state of the sweep in a folder, or at a URL.

    Raises:
        UserError: no sweep there.
    """
    directory = local_copy(place, (RECORD, *in_trials(files_for(Use.STATE))))
    trials, keys = directory / TRIALS, read_record(directory).trials
    configs: dict[str, TrialConfig] = {}
    for key in keys:
        # Absent before the trial is begun; a damaged one is written again with the next attempt.
        with contextlib.suppress(UserError):
            configs[key] = load_config(trials / key / CONFIG)
    names = varied_fields(list(configs.values()))
    counts: Counter[str] = Counter()
    running, here, failed, damaged, ended = [], [], [], [], []
    waiting: list[float | None] = []
    cost, decided = Cost(), ""
    driven, worked_on = _at_work(locate(place), trials, keys)
    for key in keys:
        config, outcome, progress = configs.get(key), read_outcome(trials / key), read_progress(trials / key)
        label = (point_label(config, names) if config else "") or key
        status, spent = outcome["status"], progress_cost(progress)
        cost += spent
        if status == TrialStatus.MISSING and key in worked_on:
            status = TrialStatus.RUNNING
            here.append(running_trial(config or TrialConfig(), progress))
            running.append(RunningTrial.from_progress(label, progress, silence(progress)))
        elif status == TrialStatus.MISSING:
            damaged += [(label, str(outcome["reason"]))] if outcome["reason"] else []
            waiting.append(trial_flops(config) if config else None)
        elif config and status not in (*BROKEN, TrialStatus.NOT_NEEDED):
            ended.append(ended_trial(config, spent.seconds, outcome))
        if status in (*BROKEN, TrialStatus.NONFINITE):
            failed.append((label, str(outcome["reason"]), str(status)))
        if status == TrialStatus.NOT_NEEDED:
            decided = str(outcome["reason"])
        counts[status] += 1
    return SweepState(
        directory.name,
        dict(counts),
        tuple(running),
        tuple(failed),
        tuple(damaged),
        driven=driven,
        cost=cost,
        # One that makes no step takes nobody knows how long.
        seconds_left=(
            None
            if not keys or any(trial.silence for trial in running)
            else seconds_left(ended, here, waiting, len(here))
        ),
        decided=decided,
    )


def _at_work(folder: Path | Remote, trials: Path, keys: Sequence[str]) -> tuple[bool, set[str]]:
    """Returns whether a driver is at work in a sweep's folder, and the trials that workers are at."""
    begun = [key for key in keys if read_progress(trials / key).get("running")]
    driven, *worked_on = are_live([folder / DRIVER_LEASE, *(folder / trial_place(key) / LEASE for key in begun)])
    return driven, {key for key, live in zip(begun, worked_on, strict=True) if live}

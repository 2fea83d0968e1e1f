"""How long a sweep still takes, from how large its trials are, how many run at once and how far those are.

Pure functions without torch: a driver calls them every second.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drorae.config import TrialConfig
from drorae.machine.extent import share_done, trial_flops

TELLING_SHARE = 0.1
"""Of a trial's steps: from here on its own pace says something."""
SLOPE_SHARE, SLOPE_POINTS = 0.3, 0.3
"""Before trials of different sizes have ended, the share of a mean trial's seconds that is taken to grow with size; and
how many trials that assumption counts for. Both halve the error on sweeps of trials that train alone, whose smallest
come first: they alone do not show what size costs."""


@dataclass(frozen=True)
class Ended:
    """A trial that has ended."""

    seconds: float
    """Wall seconds, all attempts."""
    size: float
    """`trial_flops`; 0 of a trial that is only measured, such as one whose pack was trained by another."""
    after: float = 0.0
    """Those of its wall seconds that came after training (`eval_seconds` of its result); 0 where unknown."""


@dataclass(frozen=True)
class Running:
    """A trial that runs."""

    elapsed: float
    """Wall seconds so far, all attempts."""
    size: float
    """`trial_flops`."""
    share: float | None = None
    """Of its training, and its generator, that is done, 0 to 1 (`share_done`); None while it loads."""
    reached: float | None = None
    """Wall seconds in which that share was reached, for steps are reported only now and then; None: `elapsed`."""
    begun: tuple[float, float] = (0.0, 0.0)
    """Wall seconds and share at the first step that was reported: what came before, such as loading, is no training."""


def running_trial(config: TrialConfig, progress: Mapping[str, Any]) -> Running:
    """A running trial from its config and what its progress.json holds."""

    def share(row: Mapping[str, Any]) -> float | None:
        step, total = row.get("step", row.get("done", 0)), row.get("total_steps", row.get("total", 0))
        return share_done(config, str(row.get("phase", "")), float(step), float(total))

    first = progress.get("first_step", {})
    begun = float(first.get("seconds", 0)), share(first) or 0.0
    seconds, reached = float(progress.get("seconds", 0)), progress.get("trained_seconds")
    return Running(seconds, trial_flops(config), share(progress), reached, begun)


def ended_trial(config: TrialConfig, seconds: float, outcome: Mapping[str, Any]) -> Ended:
    """An ended trial from its config, wall seconds and what its result.json holds."""
    return Ended(seconds, trial_flops(config), float(outcome.get("eval_seconds", 0)))


@dataclass(frozen=True)
class Fit:
    """Wall seconds of a trial: fixed + slope * size."""

    mean: float
    """Wall seconds of a trial of unknown size."""
    fixed: float
    slope: float

    def seconds(self, size: float | None) -> float:
        """Of a trial of this size; None: unknown."""
        return self.mean if size is None else self.fixed + self.slope * size


def fit(points: Iterable[tuple[float, float, float]]) -> Fit | None:
    """Least squares through trials given as (size, wall seconds, weight), neither term below 0; None without any.

    The slope is drawn, less the more sizes were seen, to the one by which SLOPE_SHARE of a mean trial grows with size.
    """
    known = [point for point in points if point[1] > 0 and point[2] > 0]
    weight = sum(w for _, _, w in known)
    if not weight:
        return None
    size, seconds = sum(w * x for x, _, w in known) / weight, sum(w * y for _, y, w in known) / weight
    if size <= 0:
        return Fit(seconds, seconds, 0.0)
    across = sum(w * (x - size) * (y - seconds) for x, y, w in known)
    along = sum(w * (x - size) ** 2 for x, _, w in known)
    steepest = seconds / size
    slope = (across + SLOPE_POINTS * size * SLOPE_SHARE * seconds) / (along + SLOPE_POINTS * size**2)
    slope = min(max(slope, 0.0), steepest)
    return Fit(seconds, seconds - slope * size, slope)


def seconds_left(
    ended: Sequence[Ended], running: Sequence[Running], waiting: Sequence[float | None], at_once: int
) -> float | None:
    """Wall seconds until the last trial ends; None while nothing can be said.

    Nothing can be said before a trial has ended or has done a tenth of its training, nor where none can run. Until one
    is evaluated, nobody knows how long that takes, and it is left out.

    Args:
        ended: trials that ran to their end.
        running: trials that run.
        waiting: `trial_flops` of the others, in the order in which they start; None: not known yet.
        at_once: how many run at once; of more that run already, as many.
    """
    if not running and not waiting:
        return 0.0
    measured = [trial.after for trial in ended if trial.after > 0]
    if not measured:
        # Of an evaluation seen in its midst, one half has passed on average.
        measured = [2 * (trial.elapsed - trial.reached) for trial in running if trial.share == 1 and trial.reached]
    after = sum(measured) / len(measured) if measured else 0.0
    # What is only measured tells nothing of what training costs, as long as anything else does.
    trained = any(trial.size for trial in ended)
    points = [(trial.size, trial.seconds, 1.0) for trial in ended if trial.size or not trained]
    paces: list[float | None] = []
    for trial in running:
        share, pace = trial.share or 0.0, None
        began, before = trial.begun
        if share - before >= TELLING_SHARE:
            reached = trial.elapsed if trial.reached is None else trial.reached
            pace = reached + (1 - share) * (reached - began) / (share - before) + after
            points.append((trial.size, pace, share))
        paces.append(pace)
    line = fit(points)
    if line is None or max(at_once, len(running)) < 1:
        return None

    def whole(size: float | None) -> float:
        return after if size == 0 and after else line.seconds(size)

    slots = [0.0] * (at_once - len(running))
    for trial, pace in zip(running, paces, strict=True):
        total, share = whole(trial.size), trial.share or 0.0
        if pace is not None:
            total += share * (pace - total)
        slots.append(max(total - trial.elapsed, 0.0))
    heapq.heapify(slots)
    last = max(slots)
    for size in waiting:
        last = max(last, slots[0] + whole(size))
        heapq.heapreplace(slots, slots[0] + whole(size))
    return last

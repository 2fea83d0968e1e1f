"""Trials that make no step: how long is too long for each, by its own pace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeps.driver.console import duration
from sweeps.folder.progress import is_training

LEAST_SECONDS = 1800.0
"""No trial is given up before it has made no step for so long, unless the user says otherwise."""
SLOWEST_TIMES = 20.0
"""Nor before it has taken so many times the slowest of its steps."""
APART_SECONDS = 6 * 3600.0
"""The same where it has no steps, as while it encodes or is measured; or as long as its training took."""


def stall_seconds(progress: Mapping[str, Any], minutes: float = 0.0) -> float | None:
    """Returns after how many seconds without a report a trial has stalled; None: nobody can say.

    Args:
        progress: what its progress.json holds.
        minutes: what the user says; 0: nothing.
    """
    if minutes:
        return minutes * 60
    if "phase" not in progress:
        return None
    if is_training(progress):
        return max(LEAST_SECONDS, SLOWEST_TIMES * float(progress.get("slowest_seconds", 0.0)))
    return max(APART_SECONDS, float(progress.get("trained_seconds", 0.0)))


def silence(progress: Mapping[str, Any]) -> str:
    """Returns that a trial has made no step for long, where it seems so by its worker's clock; else nothing."""
    limit, reported = stall_seconds(progress), progress.get("reported")
    quiet = time.time() - float(reported) if reported else 0.0
    # Said before it is acted upon.
    return f"no step for {duration(quiet)}" if limit and quiet > limit / 2 else ""


@dataclass
class Stalls:
    """Watches, by the driver's own clock, whether running trials get on."""

    minutes: float = 0.0
    """Without a report, after which a trial has stalled; 0: by its own pace (`stall_seconds`)."""
    _seen: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def look(self, key: str, progress: Mapping[str, Any], now: float) -> str:
        """Returns that a trial has stalled, in words; nothing where it has not.

        Args:
            key: the trial.
            progress: what its progress.json holds at the moment.
            now: seconds of a clock that never goes back.
        """
        if not progress.get("running"):
            # Not begun: it waits for its turn, or for the folder.
            self.forget(key)
            return ""
        at = tuple(progress.get(name) for name in ("phase", "step", "note", "done", "reported"))
        if key not in self._seen or self._seen[key][0] != at:
            self._seen[key] = at, now
        quiet, limit = now - self._seen[key][1], stall_seconds(progress, self.minutes)
        if limit is None or quiet < limit:
            return ""
        where = " ".join(str(part) for part in at[:2] if part is not None)
        self.forget(key)
        return f"no step for {duration(quiet)} (at {where or 'its start'}); its worker was ended"

    def forget(self, key: str) -> None:
        """The trial begins anew, or has ended."""
        self._seen.pop(key, None)

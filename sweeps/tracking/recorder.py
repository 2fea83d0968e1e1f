"""Records a trial from a thread of its own: training never waits for MLflow, however slow it is or silent."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Mapping

from drorae.errors import brief
from sweeps.folder.lease import LeaseLostError
from sweeps.tracking.client import warn_once
from sweeps.tracking.spool import SPOOL_ROWS
from sweeps.tracking.trial import TrialTracker

KEEP_WAIT_SECONDS = 0.5
"""Longest wait for rows to be spooled, where the trial may be ended at any moment after: as long as a usual request."""


class Recorder:
    """Hands what a trial reports to its tracker, in order, in a thread of its own; a context manager.

    It sends rows while the trial goes on. Its end is the driver's to record (`sweeps.tracking.backlog`). Nothing is
    lost where the thread falls behind or is killed with its process: a trial that goes on reports its rows again, and
    one that ends has them all in its history.jsonl.

    Args:
        tracker: records the trial.
    """

    def __init__(self, tracker: TrialTracker) -> None:
        self._tracker = tracker
        self._todo: queue.Queue[Callable[[], object] | None] = queue.Queue(SPOOL_ROWS)
        self._kept = threading.Event()
        self._kept.set()
        self._say = warn_once(tracker.warn)

    def __enter__(self) -> Recorder:
        self._put(self._tracker.start)
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # No slot waits for a store: the driver records what has ended, the next attempt goes on with what has not.
        self._tracker.hand_over()
        # The spool of a trial that is another's by now is the other's, too.
        if not isinstance(error, LeaseLostError):
            self.keep()
        self._put(None)

    def report(self, row: Mapping[str, float | str]) -> None:
        """Takes a reported row; returns at once."""
        self._put(functools.partial(self._tracker.report, dict(row), self._tracker.picture(row)))

    def keep(self) -> bool:
        """Has the rows so far spooled, as far as they are not sent; returns False where that takes longer.

        A store that kept one call for `KEEP_WAIT_SECONDS` keeps no other waiting before it has come back.
        """
        if not self._kept.is_set():
            return False
        self._kept = self._ask(self._tracker.keep)
        return self._kept.wait(KEEP_WAIT_SECONDS)

    def _ask(self, action: Callable[[], object]) -> threading.Event:
        """Queues an action; returns the event that is set once it is over."""
        over = threading.Event()
        self._put(action)
        self._put(over.set)
        return over

    def _put(self, action: Callable[[], object] | None) -> None:
        # Full after hours of a store that holds a call: what finds no place stands in the trial's history.
        with contextlib.suppress(queue.Full):
            self._todo.put_nowait(action)

    def _work(self) -> None:
        while (action := self._todo.get()) is not None:
            try:
                action()
            except Exception as error:
                # Recording is never worth a trial: the driver, which records what is not, meets it again.
                self._say(
                    "error", f"{self._tracker.directory.name}: not recorded ({type(error).__name__}: {brief(error)})"
                )

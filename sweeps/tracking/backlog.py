"""Trials that have ended, to be recorded: threads of the driver's do it, so that none keeps its slot meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

THREADS = 4
"""So many trials are recorded at once: a server may take seconds for each of some twenty requests."""
AWAY_SECONDS = 60.0
"""After a store did not answer, so long nothing is tried: what is left out the sweep's end records."""
LEAVE_SECONDS = 120.0
"""Longest wait, at the end, for what is under way."""


class Backlog:
    """Records trials in the order in which they ended.

    Args:
        record: records a trial by its config hash; False: the store is away. Whatever it raises is not worth the
            sweep, whose end records what is not.
    """

    def __init__(self, record: Callable[[str], bool]) -> None:
        self._record = record
        self._keys: queue.Queue[str | None] = queue.Queue()
        self._away_until = 0.0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def add(self, key: str) -> None:
        """Takes a trial that has ended; returns at once."""
        self._keys.put(key)

    def close(self, hurried: bool) -> None:
        """Waits for what is under way; `hurried`: leaves out the rest."""
        if hurried:
            self._away_until = float("inf")
        for _ in self._threads:
            self._keys.put(None)
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            # Of a backlog that goes down, each trial gets its time.
            while not hurried and thread.is_alive() and self._keys.qsize() > len(self._threads):
                thread.join(0.1)
                deadline = time.monotonic() + LEAVE_SECONDS
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (key := self._keys.get()) is not None:
            if time.monotonic() < self._away_until:
                continue
            try:
                done = self._record(key)
            except Exception:  # a store of files that is away, a damaged file: the sweep's end meets it again
                done = True
            if not done:
                self._away_until = max(self._away_until, time.monotonic() + AWAY_SECONDS)

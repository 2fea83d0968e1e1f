"""What a sweep runs next: the trials of a list in order, or what Optuna's studies ask for (`sweeps.driver.search`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol


class Asker(Protocol):
    """What is run next: a list, or Optuna's studies."""

    @property
    def total(self) -> int:
        """Trials that will have been run, as far as is known."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to ask for and nothing runs."""

    def ask(self) -> str | None:
        """The config hash of the next trial, its folder ready; None while there is none, or for good."""

    def tell(self, key: str) -> None:
        """A trial has ended."""


class Listed:
    """The trials of a sweep without a search, in order."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.total = len(keys)
        self._left = deque(keys)
        self._running: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether all have ended."""
        return not self._left and not self._running

    def ask(self) -> str | None:
        """The next one."""
        if not self._left:
            return None
        key = self._left.popleft()
        self._running.add(key)
        return key

    def tell(self, key: str) -> None:
        """One has ended."""
        self._running.discard(key)

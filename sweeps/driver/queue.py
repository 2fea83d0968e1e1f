"""What a sweep runs next where Optuna does not say it (`sweeps.driver.search`): the trials of a list in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Listed:
    """The trials of a sweep without a search, in order; `sweeps.driver.search.Studies` has the same methods."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.total = len(keys)
        self._left = deque(keys)
        self._running: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether all have ended."""
        return not self._left and not self._running

    def ask(self) -> str | None:
        """The config hash of the next trial; None where none is left."""
        if not self._left:
            return None
        self._running.add(self._left[0])
        return self._left.popleft()

    def tell(self, key: str) -> None:
        """One has ended."""
        self._running.discard(key)

"""What a sweep runs next where Optuna does not say it (`sweeps.driver.search`): the trials of a list in order."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.packs import Packs


class Listed:
    """The trials of a sweep without a search, in order; `sweeps.driver.search.Studies` has the same methods.

    Args:
        keys: config hashes.
        packs: trials that train phase 2 for others, too, which wait for them.
    """

    def __init__(self, keys: Sequence[str], packs: Packs | None = None) -> None:
        self.total = len(keys)
        self._left = dict.fromkeys(keys)
        self._running: set[str] = set()
        self._first = {other: first for first, others in (packs or {}).items() for other in others}

    @property
    def finished(self) -> bool:
        """Whether all have ended."""
        return not self._left and not self._running

    def ask(self) -> str | None:
        """The config hash of the next trial; None where none is left, or none that need not wait."""
        key = next((key for key in self._left if self._first.get(key) not in self._running), None)
        if key is not None:
            del self._left[key]
            self._running.add(key)
        return key

    def tell(self, key: str) -> None:
        """One has ended."""
        self._running.discard(key)

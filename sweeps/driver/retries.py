"""How often what fails is tried again: as long as it gets further, and so many times where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RETRIES = 3
"""Of a trial, where nobody says how often; of a preparation."""


@dataclass
class Retries:
    """Counts, by key, the attempts in a row that got no further than the best before them."""

    allowed: int = RETRIES
    """Retries without progress."""
    _furthest: dict[str, dict[str, float]] = field(default_factory=dict)
    _in_vain: dict[str, int] = field(default_factory=dict)

    def begin(self, key: str, reached: Mapping[str, float]) -> None:
        """The first attempt of this call begins; later ones change nothing.

        Args:
            key: of what is tried.
            reached: how far attempts of earlier calls got: the furthest step by phase.
        """
        self._furthest.setdefault(key, dict(reached))

    def goes_on(self, key: str, reached: Mapping[str, float], counts: bool = True) -> bool:
        """Returns whether another attempt is made after one has failed.

        Args:
            key: of what failed.
            reached: how far any attempt got by now.
            counts: False where the failure is nobody's, as of a machine that is taken away.
        """
        best = self._furthest.setdefault(key, {})
        if any(step > best.get(phase, -1.0) for phase, step in reached.items()):
            self._in_vain[key] = 0
            best.update(reached)
        elif counts:
            # The first attempt is none that is made again.
            self._in_vain[key] = self._in_vain.get(key, -1) + 1
        return self._in_vain.get(key, -1) < self.allowed

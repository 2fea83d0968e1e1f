"""Which of the rows that a phase reports are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

MOST_ROWS = 1000
"""Rows that are kept of a phase, however long."""
MOST_SENT = 150
"""Of these, so many go to MLflow, and the last: with ten values each, and those of held-out images, a study of 20
trials that train two phases leaves it fewer than 100,000 values."""
MOST_LOOKS = 100
"""Rows of held-out images that are kept of a phase."""
MOST_PICTURES = 20
"""Pictures of held-out images that are painted of a phase, however long."""
HELD_OUT = "held_out."
"""Before the names of what is measured of held-out images while a phase trains."""
HELD_OUT_IMAGES, HELD_OUT_PSNR = f"{HELD_OUT}images", "held_out.psnr"
"""How many there are, and what those who watch a trial see of it."""
PASSING = "passing"
"""Field of a reported row that says how far the phase is, and is not kept."""


def steps_between(log_steps: int, total: int, most: int | None = None) -> int:
    """Returns after how many steps a row is kept, where rows are reported every `log_steps` of `total` steps.

    A multiple of `log_steps`, so that the rows of a phase, its last among them, are no more than `most`; None, the
    default: than `MOST_ROWS`.
    """
    return log_steps * max(1, math.ceil(total / (log_steps * (most or MOST_ROWS))))


def is_held_out(names: Iterable[str]) -> bool:
    """Says whether a row of these names is of held-out images, and not of the training beside it."""
    return any(name.startswith(HELD_OUT) for name in names)


class Spread:
    """Chooses rows of training for a reader who takes fewer than are kept: evenly spread, the same ones every time.

    Args:
        most: rows of a phase, beside its last.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: dict[str, int] = {}

    def takes(self, row: Mapping[str, float | str]) -> bool:
        """Says whether a row is chosen: the first in each of `most` parts of its phase, and the phase's last.

        One that does not say how many steps its phase has is, and so is any of held-out images.
        """
        if "total_steps" not in row:
            return True
        phase, part = str(row["phase"]), int(float(row["step"]) * self._most // float(row["total_steps"]))
        if part <= self._parts.get(phase, -1):
            return False
        self._parts[phase] = part
        return True


def is_kept(row: Mapping[str, float | str]) -> bool:
    """Says whether a reported row belongs in a trial's history, in MLflow and in the losses of its epochs."""
    return PASSING not in row

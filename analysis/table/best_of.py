"""The best of what was tried at one size and seed, and how much choosing it flatters the metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.table.configurations import configuration_columns, number_groups
from drorae.errors import UserError
from drorae.metrics import registry


class Best(NamedTuple):
    """The chosen row of one size and seed."""

    row: int
    tried: np.ndarray
    """Values of all rows that it was chosen from, the best first, shape (tried,)."""
    again: np.ndarray
    """Values of the chosen settings with other seeds, which did not choose them, shape (other seeds,)."""

    @property
    def flattery(self) -> float:
        """What to add to the chosen value for what the chosen settings are worth; zero where nothing was chosen from.

        With other seeds, their mean less the chosen value, which is unbiased. Without, by a bootstrap that repeats the
        choice: the mean, over draws of as many values from those tried, of the best one drawn, less the best one. That
        is exact, as the j-th best of K is the best drawn with probability ((K - j + 1)^K - (K - j)^K) / K^K, and
        small where the settings hardly matter.
        """
        number = len(self.tried)
        if number == 1:
            return 0.0
        if len(self.again):
            return float(self.again.mean() - self.tried[0])
        left = (np.arange(number, -1, -1) / number) ** number
        return float(-np.diff(left) @ self.tried - self.tried[0])


def choose_best(
    used: pd.DataFrame, x: np.ndarray, y: np.ndarray, seeds: Sequence[str], y_name: str, apart: Sequence[str] = ()
) -> list[Best]:
    """Chooses the best row of every size and seed over the columns in `attrs["best_of"]`; none without those.

    Args:
        used: the rows, one per run; `attrs["better"]` says which values are better, else the metric's name does.
        x: their sizes, shape (rows,).
        y: their values, shape (rows,).
        seeds: their seeds as text.
        y_name: the metric.
        apart: columns that tell designs or axes apart.

    Raises:
        UserError: it is not known which values are better.
    """
    if not used.attrs.get("best_of"):
        return []
    better = used.attrs.get("better") or registry.better(re.split(r"[./]", y_name)[-1])
    if better is None:
        raise UserError(f"{y_name}: not known whether lower or higher is better; say so with --better lower or higher")
    columns = list(dict.fromkeys([*configuration_columns(used), *apart]))
    groups = number_groups(used, columns, x=x, seed=seeds)
    alike = number_groups(used, [*columns, *used.attrs["best_of"]], x=x)
    sign = 1 if better == "lower" else -1
    chosen = []
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.argsort(sign * y[rows], kind="stable")]
        again = np.flatnonzero((alike == alike[rows[0]]) & (groups != group))
        chosen.append(Best(int(rows[0]), y[rows], y[again]))
    return sorted(chosen, key=lambda best: best.row)

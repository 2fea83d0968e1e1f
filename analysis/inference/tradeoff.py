"""Reconstruction against generation: the trials of a table in both, the best of them, and the controls between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.inference.pareto import pareto_set, upwards
from analysis.table.cells import floats
from analysis.table.columns import texts
from analysis.table.selection import Selection, check_measurements, select
from drorae.errors import UserError
from drorae.metrics.registry import CONTROLS, LOOKED_THROUGH, METRICS, generated, mark, marked, plain


class Level(NamedTuple):
    """What a control measures over the trials, which is the same in all where it has nothing of the tokenizer."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class TradeOff:
    """How well trials reconstruct, and how well the generators behind their tokenizers do."""

    x_name: str
    """The metric of reconstruction."""
    selection: Selection
    """The trials that have both, each with its size (x) and its distance of generated images (y)."""

    @property
    def y_name(self) -> str:
        """The distance of generated images."""
        return self.selection.y_name

    @property
    def said(self) -> tuple[str, str]:
        """Both names with their marks, for texts."""
        seen = texts(self.selection.used, LOOKED_THROUGH)
        return marked(self.x_name, mark(self.x_name, seen)), self.selection.y_said

    @cached_property
    def x(self) -> np.ndarray:
        """What the trials measure of reconstruction, shape (trials,)."""
        return floats(self.selection.used[self.x_name])

    @property
    def y(self) -> np.ndarray:
        """What they measure of generated images, shape (trials,)."""
        return self.selection.y

    @property
    def rising(self) -> bool:
        """Whether more of reconstruction's metric is better."""
        return upwards(self.x_name)

    @cached_property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """The standard errors of x and y, each (trials,); NaN where the table has none."""
        used = self.selection.used
        names = (f"{self.x_name}_se", f"{self.y_name}_se")
        x, y = (floats(used[name]) if name in used.columns else np.full(len(used), np.nan) for name in names)
        return x, y

    @cached_property
    def best(self) -> tuple[int, ...]:
        """The trials that no other is better than in both, by their numbers in `selection`, in order of x."""
        pair = pd.DataFrame({self.x_name: self.x, self.y_name: self.y})
        return tuple(int(i) for i in pareto_set(pair, [self.x_name, self.y_name]).index)

    @cached_property
    def controls(self) -> dict[str, Level]:
        """The same distance of what no generator made, by the name behind it (`CONTROLS`), where the table has it.

        A guidance changes none of them.
        """
        used, found = self.selection.used, {}
        for name in CONTROLS:
            column = f"{plain(self.y_name)}_{name}"
            values = floats(used[column]) if column in used.columns else np.array([])
            if np.isfinite(values).any():
                found[name] = Level(*(float(np.nanquantile(values, part)) for part in (0, 0.5, 1)))
        return found


def trade_offs(frame: pd.DataFrame, size: str, note: Callable[[str], None]) -> list[TradeOff]:
    """Sets reconstruction against every distance of generated images that a table of trials has, of every guidance.

    Reconstruction is measured by the first metric of the list that the table has, of those that flatter nothing if
    there are such.

    Args:
        frame: one row per trial.
        size: column of the size that tells trials apart, or an alias of one.
        note: takes a line about each distance that is left out.
    """
    there = [name for name in map(str, frame.columns) if np.isfinite(floats(frame[name])).any()]
    drawn, seen = generated(there), texts(frame, LOOKED_THROUGH)
    measures = (metric.name for metric in METRICS if metric.fitted and not (metric.generated or metric.prompted))
    names = [name for name in measures if name in there]
    if not drawn or not names:
        return []
    x_name = min(names, key=lambda name: bool(mark(name, seen)))
    found = []
    for y_name in drawn:
        try:
            selection = select(frame, size, y_name, log=False)
            selection = selection.take(np.isfinite(floats(selection.used[x_name])))
            if not len(selection.y):
                raise UserError(f"no trial has {x_name} as well")
            check_measurements(selection.used, x_name)
            found.append(TradeOff(x_name, selection))
        except UserError as error:
            note(f"note: no plot of {x_name} against {y_name}: {error}")
    return found

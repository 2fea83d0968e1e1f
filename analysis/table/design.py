"""Whether the sizes of the selected runs can carry a law: the refusals, each with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.table.cells import floats
from analysis.table.decoders import check_decoders
from analysis.table.selection import Selection
from analysis.table.trackers import is_seed
from drorae.errors import UserError

LEAST_LEVELS = 3
"""Distinct sizes below which no form of a law can be told from another: two points lie on every curve."""

COLLINEAR_VIF = 1e3
"""Variance inflation factor from which two axes count as one: the standard error of either coefficient is then
more than 30 times what it would be on its own (condition numbers above 1e3 are flagged for the same reason)."""

LEAST_CONFIGURATIONS = 4
"""Parameters of a line + 2: below it the residual says next to nothing."""


def check_design(selection: Selection, unit: str = "configuration") -> None:
    """Refuses runs that cannot carry a line.

    Raises:
        UserError: a size that is a seed, seeds counted as configurations, one or two sizes, fewer than
            four configurations, the same y everywhere, or different phase-1 decoders at one size.
    """
    check_decoders(selection.used, selection.y_name, [selection.x_column])
    if reason := _fault(selection, unit):
        raise UserError(f"{selection.y_name} on {selection.x_name}: {reason}")


def _fault(selection: Selection, unit: str) -> str:
    """What is wrong with the runs' sizes and values, with its remedy; empty where nothing is."""
    seeds, x, levels = selection.seeds, selection.x_column, np.unique(selection.x)
    configurations, runs = int(selection.configurations.max()) + 1, len(selection.x)
    same = len(set(seeds)) > 1 and np.array_equal(floats(pd.Series(seeds)), selection.x)
    if same or is_seed(x):
        return f"{x} numbers repeats (seeds), it is no size; expected a size such as params"
    if unit == "row" and configurations < runs and any(seeds):
        return (
            f"{runs} rows are {configurations} configurations run with several seeds; seeds are repeats, not sizes, "
            "and would make the interval too narrow; use unit configuration, which averages them"
        )
    if len(levels) == 1:
        return f"all runs have {x} = {levels[0]:g}; expected different sizes; run more of them"
    if len(levels) < LEAST_LEVELS:
        return (
            f"{x} takes two values only ({levels[0]:g}, {levels[1]:g}), which fit any law; "
            f"expected at least {LEAST_LEVELS} sizes; run one between them and one beyond"
        )
    if configurations < LEAST_CONFIGURATIONS:
        counted = f"{configurations} configurations ({runs} runs, {len(selection.excluded)} rows left out)"
        return f"{counted}; a law of 2 parameters needs at least {LEAST_CONFIGURATIONS}; run more sizes, not more seeds"
    if np.ptp(selection.y) == 0:
        name, value = selection.y_name, selection.y[0]
        return f"{name} is {value:g} in every run; expected values that differ; check that the metric was measured"
    return ""


def check_axes(axes: Mapping[str, np.ndarray]) -> None:
    """Refuses axes of which one is a linear function of the others, up to `COLLINEAR_VIF`.

    axes: transformed values per axis, each of shape (runs,). The variance inflation factor of an axis is
    1 / (1 - R2) of its regression on the others.

    Raises:
        UserError: an axis that does not vary, that has two levels, or that another one repeats.
    """
    for name, values in axes.items():
        levels = len(np.unique(values))
        if levels < LEAST_LEVELS:
            only = "one value" if levels == 1 else "two values"
            raise UserError(f"{name}: the axis takes {only} only; expected at least {LEAST_LEVELS}; leave it out")
    for name, values in axes.items():
        others = {key: other - other.mean() for key, other in axes.items() if key != name}
        if not others:
            continue
        centred, design = values - values.mean(), np.column_stack([*others.values()])
        residual = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
        left = float(np.sum(residual**2) / np.sum(centred**2))
        if left < 1 / COLLINEAR_VIF:
            rest = " and ".join(others)
            raise UserError(
                f"{name}: collinear with {rest} in these runs (R2 {1 - left:.6f}); their effects cannot be told apart; "
                "leave one out, or vary them independently"
            )

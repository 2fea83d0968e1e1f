"""The trade-off of several objectives: the runs that no other run beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.table.cells import floats
from analysis.table.columns import find_column
from drorae.errors import UserError
from drorae.metrics.registry import better
from drorae.trial.folder import TrialStatus


def upwards(name: str) -> bool:
    """Whether more of it is better; of sizes, seconds and distances less is."""
    return better(name) == "higher" or any(better(part) == "higher" for part in name.split("_"))


def pareto_set(frame: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The finished runs that are not dominated, in order of the first objective.

    A run is dominated by one that is as good in every objective and better in one. Rows without a number in one of
    the objectives are left out.

    >>> frame = pd.DataFrame({"params": [1, 2, 3, 4], "rfid": [9.0, 5.0, 6.0, 4.0]})
    >>> list(pareto_set(frame, ["params", "rfid"]).index)
    [0, 1, 3]

    Raises:
        UserError: fewer than two objectives, no such column, or no finished run with numbers.
    """
    if len(objectives) < 2:
        raise UserError("a Pareto set needs two objectives or more, such as fusion_params rfd_dinov2")
    columns = [find_column(frame, name) for name in objectives]
    numbers = np.column_stack([floats(frame[name]) for name in columns])
    usable = np.isfinite(numbers).all(axis=1)
    if "status" in frame.columns:
        usable &= (frame["status"] == TrialStatus.FINISHED).to_numpy()
    if not usable.any():
        raise UserError(f"{', '.join(objectives)}: no finished run has all of them")
    costs = numbers[usable] * np.array([-1.0 if upwards(name) else 1.0 for name in objectives])
    beaten = [bool(((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any()) for row in costs]
    found: pd.DataFrame = frame[usable][~np.array(beaten)]
    return found.sort_values(columns[0], kind="stable")

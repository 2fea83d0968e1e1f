"""Sizes that were measured, such as seconds: one value per configuration, whatever each of its seeds took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.table.configurations import configuration_columns, is_measurement, number_groups

LEAST_GROUPS = 3
"""Configurations from which sizes are averaged, the values that a law needs. Fewer are rather designs of many sizes."""


def average_size(
    used: pd.DataFrame, column: str, values: np.ndarray, seeds: Sequence[str], apart: Sequence[str] = (),
    log: bool = True,
) -> np.ndarray:  # fmt: skip
    """Averages a measured size over the seeds of every configuration, so that no seed counts as a size of its own.

    Left as they are: sizes that were set, by their name; tables whose seeds do not tell the runs of a configuration
    apart; fewer than `LEAST_GROUPS` configurations.

    Args:
        used: the rows, one per run.
        column: the size.
        values: its numbers, shape (rows,).
        seeds: of every row, as text; empty where not stated.
        apart: columns that tell designs or another axis apart.
        log: whether the law takes the logarithm, whose mean it is then.

    Returns:
        The numbers, shape (rows,), equal for all seeds of a configuration.

    >>> frame = pd.DataFrame({"num_layers": [1, 1, 2, 2, 4, 4], "seed": [0, 1] * 3, "seconds": [9, 4, 8, 8, 16, 16]})
    >>> average_size(frame, "seconds", frame["seconds"].to_numpy(), ["0", "1"] * 3).round(6).tolist()
    [6.0, 6.0, 8.0, 8.0, 16.0, 16.0]
    """
    if not is_measured_size(column) or not all(seeds):
        return values
    told = list(dict.fromkeys([*configuration_columns(used), *apart]))
    told = [name for name in told if name != column and not is_measured_size(name)]
    if all(used[name].astype(str).nunique() == 1 for name in told):
        return values
    groups = pd.Series(number_groups(used, told))
    tried = used[list(used.attrs.get("best_of", ()))].astype(str).reset_index(drop=True)
    if groups.nunique() < LEAST_GROUPS or tried.assign(group=groups, seed=list(seeds)).duplicated().any():
        return values
    numbers = pd.Series(np.log(values) if log else values)
    means = numbers.groupby(groups).transform("mean").to_numpy()
    same = (numbers.groupby(groups).transform(np.ptp) == 0).to_numpy()
    return np.asarray(np.where(same, values, np.exp(means) if log else means))


def is_measured_size(name: str) -> bool:
    """Whether a column holds a measurement by its name; floating-point operations are set."""
    return is_measurement(name) and "flops" not in name.lower()

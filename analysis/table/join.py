"""Tables of several sources as one, so that designs can be compared across them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.table.columns import find_column
from analysis.table.trackers import adopt
from drorae.errors import UserError

SOURCE = "source"
"""Column that says which source a row is from."""

_HASH = "config_hash"


def join_tables(frames: Mapping[str, pd.DataFrame], columns: Sequence[str], apart: bool) -> pd.DataFrame:
    """Returns the rows of all tables, with a column `source`, indexed by source and row.

    A column that the tables call differently (params is fusion_params in a sweep) gets the name asked for.

    Args:
        frames: tables by the name of their source.
        columns: size, metric and others that are compared.
        apart: whether sources are designs of their own, so that a run of one is no copy of a like one of another.

    Raises:
        UserError: one source given twice, or a column that a table lacks; names the table.
    """
    parts = []
    for name, table in frames.items():
        frame = adopt(table)
        for column in columns:
            try:
                found = find_column(frame, column)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
            frame = frame.assign(**{column: frame[found]})
        if apart and _HASH in frame.columns:
            frame = frame.assign(
                **{_HASH: frame[_HASH].where(frame[_HASH].isna(), name + " " + frame[_HASH].astype(str))}
            )
        parts.append(frame.assign(**{SOURCE: name}).set_axis([f"{name} row {i + 1}" for i in range(len(frame))]))
    joined = pd.concat(parts)
    joined.attrs = {}
    for table in frames.values():
        joined.attrs |= table.attrs
    return joined

"""The columns of a table: their names, roles and units; rows kept by their values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis.table.cells import check_commas, floats, suffixed
from analysis.table.trackers import adopt, plain
from drorae.errors import UserError

X_ALIASES = {
    "params": ("fusion_params_paper", "fusion_params"),
    "capacity": ("expert_hidden_dim",),
    "layers": ("num_layers",),
}
"""Short names of x and the columns they stand for, where the table has no column of that very name."""

ROLES: Mapping[str, str] = {
    "id": "config_hash",
    "seed": "seed",
    "n": "eval_images",
    "status": "status",
    "variant": "variant",
    "reason": "reason",
}
"""What a column may be for, and the name under which the analysis looks for it."""

UNITS: Mapping[str, float] = {"1": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}
"""Units a column of numbers may stand in, and what each is worth."""


def arrange(
    frame: pd.DataFrame,
    where: Iterable[str] = (),
    roles: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    mix_decoders: bool = False,
    configuration: Iterable[str] = (),
    best_of: Iterable[str] = (),
    better: str | None = None,
) -> pd.DataFrame:
    """Returns a table as the analysis wants it: columns named by their roles, plain units, the rows asked for.

    Rows keep their index, and so their number in every list of exclusions; `attrs["where"]` says what was kept.

    Args:
        frame: one row per run; left as it is.
        where: conditions COLUMN=VALUE or COLUMN=VALUE,VALUE that a row must all match; none keeps every row.
        roles: role (`ROLES`) to the column that has it; a column without one keeps its name.
        units: column to the unit (`UNITS`) its numbers stand in; plain numbers by default.
        mix_decoders: whether one law may go through runs of different phase-1 decoders (`check_decoders`).
        configuration: columns that tell configurations apart beside drorae's own; none by default.
        best_of: columns of settings, of which the best run of every size and seed is taken; none by default.
        better: which values of a metric are better for `best_of`, lower or higher; by the metric's name by default.

    Raises:
        UserError: an unknown role, unit or column, a role's name already taken, or no row that matches.
    """
    frame = frame.copy(deep=False)
    for role, column in (roles or {}).items():
        frame = _rename(frame, role, column)
    frame = adopt(frame)
    for column, unit in (units or {}).items():
        found = find_column(frame, column)
        if unit not in UNITS:
            raise UserError(f"units {column}={unit}: no such unit; units: {', '.join(UNITS)}")
        if (cell := suffixed(frame[found])) and unit != "1":
            raise UserError(f"units {column}={unit}: {cell!r} says its unit itself; leave the option out")
        frame = frame.assign(**{found: numbers(frame, found) * UNITS[unit]})
    conditions = []
    for condition in where:
        matches = _matches(frame, condition)
        conditions.append(f"{condition} ({sum(matches)} of {len(frame)} rows)")
        frame = frame[matches]
    if conditions:
        frame.attrs["where"] = conditions
    told = {
        "mix_decoders": mix_decoders,
        "configuration": [find_column(frame, name) for name in configuration],
        "best_of": [find_column(frame, name) for name in best_of],
        "better": better,
    }
    frame.attrs |= {name: value for name, value in told.items() if value}
    return frame


def _rename(frame: pd.DataFrame, role: str, column: str) -> pd.DataFrame:
    if role not in ROLES:
        raise UserError(f"role {role}: no such role; roles: {', '.join(ROLES)}")
    found, name = find_column(frame, column), ROLES[role]
    if found != name and name in frame.columns:
        raise UserError(f"role {role}={column}: the table has a column {name} already; expected one; rename or drop it")
    return frame.rename(columns={found: name})


def _matches(frame: pd.DataFrame, condition: str) -> list[bool]:
    column, equals, text = condition.partition("=")
    if not equals or not column:
        raise UserError(f"where {condition}: expected COLUMN=VALUE, such as variant=energy")
    found = find_column(frame, column.strip())
    wanted = [item.strip() for item in text.split(",")]
    matches = [any(_same(value, item) for item in wanted) for value in frame[found]]
    if not any(matches):
        values = list(dict.fromkeys(texts(frame, found)))
        listed = ", ".join(values[:8]) + (" ..." if len(values) > 8 else "")
        raise UserError(f"where {condition}: no row of {len(frame)} matches; {found} is {listed}")
    return matches


def _same(value: object, text: str) -> bool:
    if _text(value) == text:
        return True
    try:
        return float(value) == float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def find_column(frame: pd.DataFrame, name: str) -> str:
    """Returns the column called `name`, or the first of its aliases (`X_ALIASES`) that the table has.

    A tracker's prefix (`metrics.psnr`) may be left out where one column only has that name without it.

    Raises:
        UserError: none of them; names the nearest columns and lists all.
    """
    for candidate in (name, *X_ALIASES.get(name, ())):
        if candidate in frame.columns:
            return candidate
    for candidate in (name, *X_ALIASES.get(name, ())):
        # A column that was renamed to its role, or one that a tracker wrote with a prefix.
        found = [column for column in map(str, frame.columns) if plain(column) == plain(candidate)]
        if len(found) == 1:
            return found[0]
    columns = [str(item) for item in frame.columns]
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    listed = ", ".join(item for item in columns if "." not in plain(item))
    raise UserError(f"{name}: no such column{hint} columns: {listed}")


def column_of(frame: pd.DataFrame, name: str) -> str | None:
    """Returns the column called `name`, whatever tracker's prefix either has; None where there is none."""
    return next((column for column in map(str, frame.columns) if plain(column) == plain(name)), None)


def numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Returns a column as floats of shape (rows,), NaN for cells that are no numbers.

    Raises:
        UserError: no cell is a number, or commas may be decimal or between thousands.
    """
    check_commas(frame[column])
    values = floats(frame[column])
    texts = [value for value in frame[column] if isinstance(value, str)]
    if len(texts) == len(frame) and np.isnan(values).all():
        remedy = "name another column, or clean this one"
        raise UserError(f"{column}: no cell is a number (the first is {texts[0]!r}); {remedy}")
    return values


def bad_cell(value: object) -> str:
    """Says what is wrong with a cell that should hold a finite number."""
    text = _text(value)
    if not text or text.lower() == "nan":
        return "is missing"
    number = floats(pd.Series([value], dtype=object))[0]
    return f"is {text}, not finite" if np.isinf(number) else f"is {text!r}, not a number"


def texts(frame: pd.DataFrame, column: str) -> list[str]:
    """Returns a column as stripped text, one per row; empty for missing cells and for a column that is not there."""
    return [_text(value) for value in frame[column]] if column in frame.columns else [""] * len(frame)

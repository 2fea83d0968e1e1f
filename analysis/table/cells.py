"""Numbers as people and tools write them in tables: 1.3M, 1,300,000, 1 300 000, 1e400."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from drorae.errors import UserError

SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
"""Letters after a number and what they are worth."""

_LARGEST = 1e308
"""From here on a number stands for infinity, as in MLflow's stores."""

SIZES = (1e-27, 1e27)
"""Sizes whose powers, up to the tenth, are numbers of a computer."""

VALUES = (1e-100, 1e25)
"""Values whose products with such powers are, and the squares of whose residuals."""

_SPACES = "\u00a0\u2009\u202f "
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:([,'_’" + _SPACES + r"])\d{3})(?:\1\d{3})*(?:\.\d+)?")
_SUFFIXED = re.compile(r"(.*\d\.?)[" + _SPACES + "]?([" + "".join(SUFFIXES) + "])")
_COMMA = re.compile(r"[+-]?\d+,\d+")


def floats(cells: pd.Series) -> np.ndarray:
    """Returns cells as floats of shape (rows,): NaN for those that are no numbers, infinity for those beyond 1e308."""
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        values = cells.to_numpy(dtype=float, na_value=np.nan)
    else:
        texts = [value for value in cells if isinstance(value, str)]
        commas = _are_thousands(texts)
        values = np.array([_number(value, commas) for value in cells], dtype=float)
    return np.where(np.abs(values) > _LARGEST, np.copysign(np.inf, values), values)


def out_of_range(value: float, least: float, most: float) -> str:
    """Returns what is wrong with a number that is too large or, 0 aside, too small to compute with; empty of others."""
    if abs(value) > most:
        return f"is {value:.4g}, beyond the {most:.0e} that can be computed with: a larger unit would do"
    if 0 < abs(value) < least:
        return f"is {value:.4g}, nearer to 0 than the {least:.0e} that can be computed with: a smaller unit would do"
    return ""


def check_commas(cells: pd.Series) -> None:
    """Refuses a column of numbers whose commas may be decimal or between thousands.

    Raises:
        UserError: there are such commas; quotes the first cell with one.
    """
    texts = [value.strip() for value in cells if isinstance(value, str)]
    unclear = next((text for text in texts if _COMMA.fullmatch(text)), None)
    if unclear is not None and not _are_thousands(texts):
        raise UserError(
            f"{cells.name}: {unclear!r} may be a decimal comma or one between thousands; write decimals with a point, "
            "and thousands without a comma"
        )


def suffixed(cells: pd.Series) -> str | None:
    """Returns the first cell that is a number with a letter for its unit, such as 1.3M."""
    return next((value for value in cells if isinstance(value, str) and _SUFFIXED.fullmatch(value.strip())), None)


def _are_thousands(texts: Sequence[str]) -> bool:
    """Whether commas in a column's cells separate thousands: all may, and one does so twice or before a point."""
    commas = [_bare(text) for text in texts if "," in text]
    numbers = [text for text in commas if re.fullmatch(r"[+-]?[\d,.]+", text)]
    grouped = all(_GROUPED.fullmatch(text) for text in numbers)
    return grouped and any(text.count(",") > 1 or "." in text for text in numbers)


def _bare(text: str) -> str:
    found = _SUFFIXED.fullmatch(text.strip())
    return (found[1] if found else text).strip()


def _number(value: object, commas: bool) -> float:
    """A cell as a number, NaN where it is none."""
    if not isinstance(value, str):
        try:
            return float("nan") if pd.isna(value) else float(value)  # type: ignore[call-overload, arg-type]
        except (TypeError, ValueError):
            return float("nan")
        except OverflowError:
            return float("inf")
    text, unit = value.strip(), 1.0
    if found := _SUFFIXED.fullmatch(text):
        text, unit = found[1].strip(), SUFFIXES[found[2]]
    if (match := _GROUPED.fullmatch(text)) and (commas or match[1] != ","):
        text = re.sub(r"[^\d.+-]", "", text)
    try:
        # Python's own separator is taken above, where it separates thousands.
        return float("nan") if "_" in text else float(text) * unit
    except ValueError:
        return float("nan")

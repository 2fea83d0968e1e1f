"""How many digits of a number are printed: as many as tell it from its neighbours, whatever its scale."""

from __future__ import annotations

import math

MOST = 15
"""Significant digits of a float."""


def significant(value: float, spread: float = 0.0, least: int = 4) -> str:
    """Returns a number with `least` significant digits, or with as many as show a difference of `spread` in two.

    >>> significant(-1.23456e-9), significant(31.24), significant(100012.3, spread=20)
    ('-1.235e-09', '31.24', '100012')
    """
    return f"{value:.{max(least, _wanted(value, spread))}g}"


def fixed(value: float, spread: float = 0.0) -> str:
    """Returns a number with four digits after the point, or more for `spread`, where those are three that count.

    Others as `significant` has them.

    >>> fixed(8.7386123), fixed(-0.0564), fixed(-3.2e-9), fixed(0.5, spread=1e-6)
    ('8.7386', '-0.0564', '-3.2e-09', '0.5000000')
    """
    coarse = 0.01 <= spread < math.inf and round(value, 4) != 0
    if not (abs(value) >= 0.01 or coarse) or not abs(value) < 1e4:
        return significant(value, spread)
    return f"{value:.{max(4, _wanted(value, spread) - _exponent(value) - 1)}f}"


def between(low: float, high: float, least: int = 4) -> str:
    """Returns an interval's ends with digits that tell them apart.

    >>> between(0.4287, 0.5071), between(100012.31, 100033.18)
    ('0.4287 .. 0.5071', '100012 .. 100033')
    """
    return f"{significant(low, high - low, least)} .. {significant(high, high - low, least)}"


def share(value: float, places: int = 4) -> str:
    """Returns a share such as R2, not as 1 or 0 where it is neither.

    >>> share(0.94701), share(0.99999871), share(3.2e-7)
    ('0.9470', '0.9999987', '3.2e-07')
    """
    text = f"{value:.{places}f}"
    if float(text) == 0 != value:
        return f"{value:.2g}"
    if float(text) == 1 != value:
        return f"{value:.{1 - _exponent(1 - value)}f}"
    return text


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _wanted(value: float, spread: float) -> int:
    """Significant digits of a value that two of a difference's take."""
    if not (math.isfinite(value) and math.isfinite(spread)) or value == 0 or spread <= 0:
        return 0
    return min(_exponent(value) - _exponent(spread) + 2, MOST)

"""Fonts for any script: those of this machine that have what the figures' own font has not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN = "DejaVu Sans"
"""The figures' own font, which comes with matplotlib."""
_BLANK = ("last resort", "lastresort", "adobe blank", "notdef")
"""Fonts that claim every sign and show none."""


def choose_fonts(figure: Figure) -> str:
    """Gives every text of a figure the fonts that have its signs; returns the signs that no installed font has.

    Those are drawn as boxes.
    """
    from matplotlib.text import Text

    for axes in figure.axes:
        # Labels of ticks are made when they are asked for.
        _ = axes.get_xticklabels(), axes.get_yticklabels()
    lost = ""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        words = text.get_text()
        # What matplotlib itself writes beside axes of logarithms.
        if "mathdefault" in words:
            text.set_parse_math(True)
        if words.isascii():
            continue
        families, missing = families_for("".join(sorted(set(words))))
        lost += missing
        if families != (OWN,):
            text.set_fontfamily(list(families))
    return "".join(sorted(set(lost)))


def boxes(figure: Figure) -> str:
    """Says which signs of a figure are drawn as boxes; empty where all are drawn."""
    lost = choose_fonts(figure)
    return f" No font of this machine has {lost}: drawn as boxes." if lost else ""


@functools.lru_cache(maxsize=256)
def families_for(signs: str) -> tuple[tuple[str, ...], str]:
    """Returns the fonts to draw these signs with, the figures' own first, and the signs that none has."""
    missing = {sign for sign in signs if sign.isprintable()} - _signs(OWN)
    families = [OWN]
    for family in _installed() if missing else ():
        if found := missing & _signs(family):
            families.append(family)
            missing -= found
        if not missing:
            break
    return tuple(families), "".join(sorted(missing))


def _installed() -> Iterable[str]:
    """Names of the fonts of this machine, those without serifs first."""
    from matplotlib.font_manager import fontManager

    names = {item.name for item in fontManager.ttflist if not any(word in item.name.lower() for word in _BLANK)}
    return sorted(names - {OWN}, key=lambda name: ("sans" not in name.lower(), "math" in name.lower(), name))


@functools.lru_cache(maxsize=4096)
def _signs(family: str) -> frozenset[str]:
    """The signs of the font that matplotlib draws a family with; none of one that cannot be read."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = findfont(FontProperties(family=[family]), fallback_to_default=False)
        if Path(path).is_file():
            return frozenset(map(chr, get_font(path).get_charmap()))
    return frozenset()

"""Paths that stand for several files: `shards-{000..011}.tar`, `{train,extra}.tar`."""

from __future__ import annotations

import re
from pathlib import Path

from drorae.storage.remote import expanded


def braced(path: str) -> list[Path]:
    """Returns the paths that one with braces stands for, in order; a path without, or one that exists, is itself.

    `{000..011}` counts, with as many digits as its first number has; `{a,b}` lists.
    """
    if expanded(path).exists():
        return [expanded(path)]
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", path)
    if found is None:
        return [expanded(path)]
    first, last, listed = found.groups()
    words = listed.split(",") if listed else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [one for word in words for one in braced(path[: found.start()] + word + path[found.end() :])]


def is_there(path: str) -> bool:
    """Whether all that a path stands for exists."""
    places = braced(path)
    return bool(places) and all(place.exists() for place in places)

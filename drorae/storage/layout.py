"""The layout of a JSON file: its version, and who wrote it. A file of a newer layout is refused, and left as it is."""

from __future__ import annotations

from typing import Any

from drorae import __version__
from drorae.errors import UserError

SCHEMA, WRITER = "schema", "drorae"
"""Fields that a file has beside its content."""


def stamp(version: int) -> dict[str, Any]:
    """Returns the fields that say which layout a file has, and which drorae wrote it."""
    return {SCHEMA: version, WRITER: __version__}


def unstamp(tree: dict[str, Any], newest: int) -> int:
    """Takes those fields out of a file's content, and returns its layout's version; 1 where it says nothing.

    Args:
        tree: the file's content.
        newest: the latest layout that this drorae knows.

    Raises:
        UserError: the layout is a newer one; the message does not name the file.
        ValueError: the version is none.
    """
    version, writer = tree.pop(SCHEMA, 1), tree.pop(WRITER, "")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ValueError(f"no version of a layout: {version!r}")
    if version > newest:
        theirs = f"drorae {writer}" if writer else "a newer drorae"
        again = f"use drorae {writer} or newer" if writer else "use that drorae, or one newer still"
        raise UserError(
            f"written by {theirs} in layout {version}, of which this drorae ({__version__}) knows {newest} and older; "
            f"nothing was changed; {again}"
        )
    return version

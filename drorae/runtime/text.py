"""Prose in lines of a given width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable


def wrapped(text: str, width: int | None, keep: Iterable[object] = (), hang: int = 4) -> str:
    """`text` in lines of at most `width` columns, broken between words; as it is where width is None.

    What goes on below a line is indented by `hang` more than the line. Never broken: a word, such as a path, and what
    `keep` lists, such as a command with its blanks. The terminal breaks them where they are too long, and copies them
    whole.
    """
    if width is None:
        return text
    for part in map(str, keep):
        text = text.replace(part, part.replace(" ", "\0"))
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip(" ")))
        whole = len(line) <= width
        lines += [line] if whole else textwrap.wrap(
            line, width, subsequent_indent=indent + " " * hang, break_long_words=False, break_on_hyphens=False
        )  # fmt: skip
    return "\n".join(lines).replace("\0", " ")

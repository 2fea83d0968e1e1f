"""Prose in lines of a given width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable


def wrapped(text: str, width: int | None, keep: Iterable[object] = (), hang: int = 4) -> str:
    """Returns a text in lines that are broken between words.

    A word, such as a path, is never broken: where it is too long, the terminal breaks it, and copies it whole.

    Args:
        text: one line or several; the indent of a line is kept.
        width: columns of a line; None: lines stay as they are.
        keep: parts of the text that are treated as one word, such as a command with its blanks.
        hang: columns by which what goes on below a line is indented more than the line.
    """
    if width is None:
        return text
    for part in map(str, keep):
        text = text.replace(part, part.replace(" ", "\0"))
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip(" ")) + hang)
        wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [line] if len(line) <= width else wrapper.wrap(line)
    return "\n".join(lines).replace("\0", " ")

"""The one error a user can cause and mend."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from drorae.redaction import redact


class UserError(Exception):
    """Something a user can put right.

    The message is one line that says what was wrong, what was expected and how to mend it.
    The command line prints it without a traceback and exits with code 2; a library caller catches it.
    Credentials in it are hidden.
    """

    def __init__(self, *texts: object) -> None:
        super().__init__(*(redact(text) if isinstance(text, str) else text for text in texts))


class DiskFullError(UserError):
    """A file was not written because a disk or a quota is full."""


class ClusterLostError(Exception):
    """The Ray cluster that trials run on does not answer any more. The message is one line, with the remedy."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without credentials; its type where it says nothing."""
    return " ".join(redact(str(error)).split()) or type(error).__name__


@contextlib.contextmanager
def notices_to(hear: Callable[[Warning], None]) -> Iterator[None]:
    """Sends every `Notice` to `hear` meanwhile; other warnings go where they always do."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if isinstance(message, Notice):
            hear(message)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield


def printable(name: str) -> str:
    """Returns a name as it can stand in a one-line message."""
    return name if name.isprintable() else ascii(name)


def shorten(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters: cut behind a word, " ..." in place of the rest.

    A word longer than `width`, such as a path, is cut within, so that some of it is left. Credentials are hidden.
    """
    # Before it is cut: half a URI no longer shows where its password begins.
    text = " ".join(redact(text).split())
    if len(text) <= width:
        return text
    end = text[: width - 3].rfind(" ")
    if end > 0 and len(text[end + 1 :].partition(" ")[0]) <= width:
        return f"{text[:end]} ..."
    return f"{text[: width - 3]}..."


def brief(error: BaseException, limit: int = 200) -> str:
    """Returns an exception's message on one line of at most `limit` characters; its type where it says nothing."""
    return shorten(one_line(error), limit)


def last_line(text: str) -> str:
    """The last line that says something, of a traceback or a message; empty where none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shorten(lines[-1], 300) if lines else ""


OF_IMAGES = "images: "
"""How a notice on the images begins, which all trials of a sweep have in common."""


class Notice(UserWarning):
    """Something that a trial came through, and that its user should know of."""

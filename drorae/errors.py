"""The one error a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Something a user can put right.

    The message is one line that says what was wrong, what was expected and how to mend it.
    The command line prints it without a traceback and exits with code 2; a library caller catches it.
    """


class DiskFull(UserError):
    """A file was not written because a disk or a quota is full."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def last_line(text: str) -> str:
    """The last line that says something, of a traceback or a message; empty where none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


class Notice(UserWarning):
    """Something that a trial came through, and that its user should know of."""

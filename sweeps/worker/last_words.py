"""What a trial's process that dies leaves of why: the signal of a crash, or the code that it leaves with.

Nothing is left by SIGKILL, which no process hears of.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

from drorae.errors import shorten
from drorae.trial.folder import LAST_WORDS

FATAL = "Fatal Python error: "
"""How Python begins what it writes as it crashes."""


@contextlib.contextmanager
def last_words(directory: Path) -> Iterator[None]:
    """Has what kills this process while the block runs written into a trial's folder; nothing where it lives on."""
    path, leave = directory / LAST_WORDS, os._exit
    try:
        file = path.open("ab", buffering=0)
    except OSError:
        # A full disk is the trial's to complain of.
        yield
        return

    def leaving(code: int) -> None:
        with contextlib.suppress(OSError):
            file.write(f"os._exit({code}) was called\n".encode())
        leave(code)

    with file:
        before = faulthandler.is_enabled()
        faulthandler.enable(file, all_threads=False)
        os._exit = leaving  # type: ignore[assignment]  # it never returns either
        try:
            yield
        finally:
            os._exit = leave
            faulthandler.disable()
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if before:
                    faulthandler.enable(all_threads=False)
            path.unlink(missing_ok=True)


def take_last_words(directory: Path) -> str:
    """Returns what killed the last process that was at a trial, in one line, and forgets it; empty where none said."""
    path = directory / LAST_WORDS
    try:
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        path.unlink()
    except OSError:
        return ""
    return f"the worker process died: {shorten(lines[0].removeprefix(FATAL), 200)}" if lines else ""

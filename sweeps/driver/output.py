"""Where a driver's words go: ours to the screen and to a file, those of Ray, MLflow and other libraries to the file."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from drorae.errors import shorten
from drorae.redaction import redact

"""In a sweep's folder: what its drivers said, and what the libraries in them did."""
OURS = "drorae: "
"""How a line of ours begins in the log."""
ACTIONABLE = re.compile(
    r"killed due to memory pressure|OutOfMemory|% full|No space left on device|cannot be scheduled right now"
    r"|No available node types|has been marked dead|Too many open files|Failed to connect to GCS",
    re.IGNORECASE,
)
"""What Ray and MLflow say that a user can do something about: it is shown, too."""
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SPEAKER = re.compile(r"^\s*\([^)]*\)\s*")
"""`(raylet, ip=10.0.0.7)`, in a colour of its own."""


class Unfailing:
    """A text stream that loses what it cannot write: a closed terminal or a full disk is not worth a sweep.

    Nor does it write credentials.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or does not."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        """Flushes, or does not."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Routed:
    """Takes the place of stdout or stderr.

    What threads write that were there before goes where it went, all else to a log.
    """

    def __init__(self, log: TextIO, former: TextIO) -> None:
        self._log, self._former = log, former
        # Not their numbers, which threads that come later are given again.
        self._others = set(threading.enumerate()) - {threading.current_thread()}

    def _stream(self) -> TextIO:
        return self._former if threading.current_thread() in self._others else self._log

    def write(self, text: str) -> int:
        """Writes to whichever it is."""
        return self._stream().write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Appends to a file what this thread, and those it starts, write to stdout and stderr while the block runs.

    That goes for Python's streams and for the descriptors under them, which Ray's C++ writes to.

    Yields a stream to where stderr led before (in a notebook, stdout: there stderr is for errors), and one to the file.
    """
    with contextlib.ExitStack() as undo:
        file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
        undo.callback(_close, file)
        log = cast(TextIO, Unfailing(file))
        former: dict[str, TextIO] = {}
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            stream: TextIO | None = getattr(sys, name)
            shown = stream
            _flush(stream)
            try:
                kept = os.dup(descriptor)
            except OSError:
                # What is opened meanwhile must not come to stand where C++ writes its words.
                undo.callback(os.close, descriptor)
            else:
                undo.callback(_put_back, kept, descriptor)
                if stream is not None and _descriptor(stream) == descriptor:
                    shown = open(os.dup(kept), "w", encoding=stream.encoding, errors="replace", buffering=1)  # noqa: SIM115
                    undo.callback(_close, shown)
            os.dup2(file.fileno(), descriptor)
            # The file itself may stand here, where a stream was closed: child processes shall have it, too.
            os.set_inheritable(descriptor, True)
            # Whoever has kept the stream wrote to the file, too.
            undo.callback(_flush, stream)
            if shown is None:
                # Python has no stream where the descriptor was closed, as for a daemon.
                shown = open(os.devnull, "w")  # noqa: SIM115
                undo.callback(_close, shown)
            former[name] = cast(TextIO, Unfailing(shown))
        for name, stream in former.items():
            undo.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, _Routed(log, stream))
        yield former["stdout" if in_notebook() else "stderr"], log


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _flush(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()


def _put_back(kept: int, descriptor: int) -> None:
    os.dup2(kept, descriptor)
    os.close(kept)


def _close(stream: TextIO) -> None:
    # Closing flushes, which a terminal that is gone refuses, and a full disk.
    with contextlib.suppress(OSError):
        stream.close()


class Follower:
    """Reads what is added to a file by others; one that became shorter is read from its start.

    Args:
        path: the file, which need not be there.
        position: bytes to leave out.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path, self._position = path, position

    def read(self) -> bytes:
        """Returns the whole lines since the last call; none where the file cannot be read."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                self._position = 0
            file.seek(self._position)
            lines, end, _ = file.read().rpartition(b"\n")
            self._position += len(lines + end)
            return lines
        return b""


class Tail:
    """Finds the lines of a log, from its present end on, that a user can act on."""

    def __init__(self, path: Path) -> None:
        self._follower = Follower(path, path.stat().st_size if path.is_file() else 0)
        self._said: set[str] = set()

    def news(self) -> list[str]:
        """Those since the last call, each once, as one line without colours."""
        found = []
        for line in self._follower.read().decode(errors="replace").splitlines():
            text = _SPEAKER.sub("", _CODES.sub("", line)).strip()
            if line.startswith(OURS) or not ACTIONABLE.search(text):
                continue
            # The same from several nodes, or with other numbers, is the same to a reader.
            kind = re.sub(r"[0-9a-f]{8,}|\d+", "", text)
            if kind not in self._said:
                self._said.add(kind)
                found.append(shorten(text, 240))
        return found

"""The user's own command that is told how a sweep ends, and of the first trial that fails for good.

It is run as it is, never handed to a shell, and what it is told lies in its environment. Nothing that it does, or fails
to do, changes what becomes of the sweep.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path

from drorae.errors import ClusterLostError, UserError, brief, shorten
from drorae.redaction import redact
from drorae.runtime.signals import WORDS, Interrupted, Stopped

SECONDS = 30.0
"""A command that takes longer is ended."""
LENGTH = 1000
"""Characters of an error or of a reason in a message."""


class Event(StrEnum):
    """What a command is told of."""

    FINISHED = auto()
    """The sweep came to its end, whatever became of its trials."""
    FAILED_TRIAL = "failed-trial"
    """The first trial failed for good; the sweep goes on."""
    INTERRUPTED = auto()
    """Ctrl-C, TERM or HUP ended the sweep."""
    ERROR = auto()
    """Anything else did."""


def split_command(text: str | None) -> tuple[str, ...]:
    """Returns a command's program, by its full path, and its arguments, split as a shell would; nothing of None.

    Raises:
        UserError: there is no such program, or it cannot be run.
    """
    if text is None:
        return ()
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"notify: {str(error).lower()} in the command; quote it as for a shell") from None
    if not words or not words[0]:
        raise UserError("notify: expected a program with its arguments, got nothing; name one, or leave it out")
    found = shutil.which(words[0])
    # Of the arguments nothing is said: there may be a token among them.
    if found is None and os.path.isfile(words[0]):
        raise UserError(f"notify: {words[0]} may not be executed; make it so with chmod +x")
    if found is None:
        raise UserError(
            f"notify: {words[0]}: no such program; give the path of one, or one on the PATH (no shell reads the "
            "command: for ~, $ and pipes write a script, or sh -c '...')"
        )
    start = b"#!"
    # A file may be for running and not for reading.
    with contextlib.suppress(OSError), open(found, "rb") as file:
        start = file.read(512)
    # A shell runs such a file, the system does not: after days it is too late to say so.
    if b"\0" not in start and not start.startswith(b"#!"):
        raise UserError(f"notify: {words[0]}: a script without a first line such as #!/bin/sh; write one")
    return os.path.abspath(found), *words[1:]


@dataclass
class Notifier:
    """Tells a command what becomes of one call of a sweep: once how it ends, and once of a trial that failed."""

    words: Sequence[str]
    """As `split_command` returns them; without any, nobody is told."""
    name: str
    """The sweep's."""
    place: str
    """Path or URL of the sweep's folder."""
    go_on: str
    """The command that goes on with the sweep."""
    say: Callable[[str], None]
    """Takes a line about a command that failed."""
    _first: threading.Thread | None = None
    _over: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, text: str) -> None:
        """Tells of a trial that failed for good, the first time; no trial waits for the command."""
        if self.words and self._first is None:
            self._first = threading.Thread(target=self._tell, args=(Event.FAILED_TRIAL, text), daemon=True)
            self._first.start()

    @contextlib.contextmanager
    def ending(self, standing: Callable[[], str], counts: Callable[[], Mapping[str, int]]) -> Iterator[None]:
        """Tells how the block ends, and lets through what ends it.

        Args:
            standing: says how many trials are done; asked where a signal ends the block.
            counts: returns the trials per status; asked where it comes to its end.
        """
        try:
            yield
        except (Interrupted, Stopped) as end:
            self.end(Event.INTERRUPTED, f"{WORDS[end.signum]}: {standing()}; to go on: {self.go_on}")
            raise
        except BaseException as error:
            plain = isinstance(error, UserError | ClusterLostError | OSError)
            kind = "" if plain else f"{type(error).__name__}: "
            self.end(Event.ERROR, f"error: {kind}{brief(error, LENGTH)}")
            raise
        shown = ", ".join(f"{number} {status}" for status, number in counts().items())
        self.end(Event.FINISHED, f"{shown}; results in {self.place}")

    def end(self, event: Event, text: str) -> None:
        """Tells how the sweep ended, the first time, after what it is being told of a trial."""
        if not self.words or not self._over.acquire(blocking=False):
            return
        if self._first is not None:
            self._first.join()
        self._tell(event, text)

    def _tell(self, event: Event, text: str) -> None:
        message = shorten(f"{self.name}: {text}", 2 * LENGTH).replace("\0", " ")
        told = {
            "DRORAE_EVENT": str(event),
            "DRORAE_SWEEP": self.name,
            "DRORAE_FOLDER": redact(self.place),
            "DRORAE_MESSAGE": message,
        }
        if wrong := _run(self.words, os.environ | told):
            self.say(
                f"notify: {Path(self.words[0]).name} {wrong} when told of {event}, which changes nothing for the "
                "sweep; to see why, run it by hand with DRORAE_MESSAGE set"
            )


def _run(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a command to its end; returns what went wrong, empty where nothing did."""
    try:
        # Neither the terminal's Ctrl-C nor its end reach it, and its words reach no table on a screen and no log, where
        # a token might stand among them.
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"could not be run ({getattr(error, 'strerror', None) or brief(error)})"
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return f"took longer than {SECONDS:g} s and was ended"
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}" if code else ""

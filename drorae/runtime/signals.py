"""Ctrl-C, TERM and HUP as exceptions that come once, so that work can end in order; what comes after waits its turn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal, a scheduler or a closed window sends."""
WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
PATIENCE = 3
"""The process leaves at once when it is asked to end for this time."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""

    signum: int = signal.SIGINT
    said = False
    """Whether a line about it has been printed already."""


class Stopped(SystemExit):
    """TERM or HUP asked the process to end; uncaught, it does, with the shell's code for the signal: 128 + its number.

    Args:
        signum: the signal.
    """

    said = False
    """Whether a line about it has been printed already."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """Turns the first signal to end into an exception of the main thread: `Interrupted` for Ctrl-C, else `Stopped`.

    Those that follow find the work ending already and are only counted; the third leaves at once. A signal that was
    ignored before, as `nohup` does with HUP, stays ignored. Outside the main thread, where Python allows no handlers,
    nothing changes. A context manager, which puts the former handlers back; one inside another tells it what came, and
    the outermost lets an `Interrupted` out as a plain KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal."""
        self.leave: Callable[[], object] = lambda: None
        """Called before the process leaves at once, for what would stay behind, such as a hidden cursor."""
        self._count = 0
        self._deferred = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            former = {signum: signal.getsignal(signum) for signum in ENDING}
            self._former = {signum: handler for signum, handler in former.items() if handler is not signal.SIG_IGN}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        nested = False
        for signum, handler in self._former.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Signals):
                nested = True
                outer.received, outer._count = self.received or outer.received, max(self._count, outer._count)
        if isinstance(error, Interrupted) and not nested:
            # Python ends a script by SIGINT, which stops a shell's loop around it, after this very type alone.
            raise KeyboardInterrupt().with_traceback(trace) from None

    def install(self) -> None:
        """Sets the handlers, again where a library has put its own in their place."""
        for signum in self._former:
            signal.signal(signum, self._handle)

    def meant(self, error: BaseException) -> BaseException:
        """Returns what a signal was raised as where a library, such as Ray, made another exception of it.

        An error that no signal caused is returned as it is.
        """
        if isinstance(error, Interrupted | Stopped):
            return error
        if self.received is None and isinstance(error, KeyboardInterrupt):
            return Interrupted()
        if self.received is None and isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            # Ray's own handler, which is in place of ours while a cluster is joined.
            return Stopped(signal.SIGTERM)
        return error if self.received is None else exception(self.received)

    def check(self) -> None:
        """Raises for a signal whose exception was lost, as it is in a destructor or a callback from C."""
        if self.received is not None and not self._deferred:
            raise exception(self.received)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets a block end before a signal counts; then raises for one that came meanwhile, unless one had before.

        Blocks may be nested. Signals come to the main thread alone: in others nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, outer = self.received, self._deferred
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = outer
        if before is None:
            self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count >= PATIENCE:
            with contextlib.suppress(Exception):
                self.leave()
            os._exit(128 + signum)
        if self.received is None:
            self.received = signum
            if not self._deferred:
                raise exception(signum)


def exception(signum: int) -> Interrupted | Stopped:
    """Returns what a signal is raised as."""
    return Interrupted() if signum == signal.SIGINT else Stopped(signum)

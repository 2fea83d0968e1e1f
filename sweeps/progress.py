"""What a sweep says while it runs: a bar on a terminal, one line per event in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn


def duration(seconds: float) -> str:
    """Seconds as `34 s`, `5 min` or `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class SweepProgress:
    """Counts trials and prints events; a context manager."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total, self.done = total, 0
        self.quiet = quiet
        self._here = 0
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None
        if not quiet and sys.stdout.isatty():
            columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(), transient=True)
            self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> SweepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Prints an event."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def doing(self, text: str) -> None:
        """Says on a terminal what goes on now; nothing in a log."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def begin_trials(self, done: int) -> None:
        """Starts the clock of the remaining time; `done` trials needed no running."""
        self.done = done
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description="")

    def ended(self, text: str) -> None:
        """One more trial has ended."""
        self.done += 1
        self._here += 1
        left = self.total - self.done
        rest = (time.monotonic() - self._started) / self._here * left
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self.done, description=f"about {duration(rest)} left" if left else ""
            )
        self.line(f"[{self.done}/{self.total}] {text}" + (f", about {duration(rest)} left" if left else ""))

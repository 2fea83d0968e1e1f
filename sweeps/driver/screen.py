"""What a sweep says while it runs: a table refreshed in place on a terminal and in a notebook, lines in a log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from drorae.errors import shorten
from drorae.redaction import redact
from drorae.runtime.signals import Signals
from sweeps.driver.console import PROGRESS_COLUMNS, duration, progress_cells
from sweeps.driver.output import OURS, Tail, aside
from sweeps.driver.painter import Painter, choose_painter
from sweeps.folder.progress import RunningTrial

REFRESH_SECONDS = 0.5
SILENCE_SECONDS = 25.0
"""A log gets a line at least this often."""
NAMED_IN_LOG = 4
"""Running trials that such a line describes."""
LEAST = 8
"""Columns that a name, a label, a note or the bar has at least; with fewer, it says nothing."""
GAP = 2
"""Columns between two of the table's."""


class Activity(Protocol):
    """What the screen looks at while trials run; asked from a thread of the screen's own."""

    def running(self) -> Sequence[RunningTrial]:
        """The trials that workers are at, or the preparation."""

    def seconds_left(self) -> float | None:
        """Estimated time to the end of the last trial; None while nothing is known."""


class Screen:
    """Shows a sweep's progress and prints its events; a context manager.

    Args:
        name: the sweep's.
        stream: where people look, as `output.aside` yields it; how it is shown depends on what that is.
        log: gets every event with its time, whatever is shown.
        tail: finds what Ray and MLflow wrote there that a user can act on.
        footer: how to stop and how to go on: the last line of the table, the first of a log.
        quiet: show nothing.
        whole: makes blocks in which the terminal is written to, and which no signal may end half-way: the table would
            be drawn over the wrong lines from then on.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO,
        log: TextIO,
        tail: Tail,
        footer: str,
        quiet: bool = False,
        whole: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.name, self.footer = name, footer
        self._whole = whole
        self.total, self.done = 0, 0
        self._log, self._tail = log, tail
        self._phase = "starting"
        self._work: Activity | None = None
        self._running: Sequence[RunningTrial] = ()
        self._left: float | None = None
        self._began = time.monotonic()
        self._spoke = time.monotonic()
        self._painter = Painter() if quiet else choose_painter(stream)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Screen:
        self._painter.start(self._picture, self.footer)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._report_libraries()
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was; also for whoever has no time to leave the block."""
        self._painter.stop(f"{self.name}: {self.done} of {self.total} trials have ended" if self.total else self.name)

    def record(self, text: str) -> None:
        """Writes an event to the log alone."""
        self._log.write(f"{OURS}{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")

    def line(self, text: str, remedy: str = "") -> None:
        """Prints an event, and after it a command that a person may copy."""
        text, remedy = redact(text), redact(remedy)
        self.record(text + remedy)
        with self._whole(), self._lock:
            self._spoke = time.monotonic()
            self._painter.line(text, remedy)

    def doing(self, phase: str, work: Activity | None = None) -> None:
        """Says what goes on now and, with `work`, who is at it."""
        with self._whole(), self._lock:
            self._phase, self._work, self._running, self._left = phase, work, (), None
            self._began = time.monotonic()
            self._painter.refresh()

    def ended(self, text: str) -> None:
        """One more trial has ended."""
        self.done += 1
        rest = self._work.seconds_left() if self._work is not None and self.done < self.total else None
        self.line(f"[{self.done}/{self.total}] {text}" + (f", {_about(rest)}" if rest is not None else ""))

    def _tick(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            self._report_libraries()
            self._look()
            with self._lock:
                if time.monotonic() - self._spoke > SILENCE_SECONDS:
                    self._spoke = time.monotonic()
                    self._painter.status(self._status())
                self._painter.refresh()

    def _look(self) -> None:
        """Sees how the work gets on. It keeps nothing of it: its last holder may not be this thread (`Preparation`)."""
        work = self._work
        if work is None:
            return
        # A trial's files may vanish while they are read; the next look is soon.
        with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):
            running, left = work.running(), work.seconds_left()
            if work is self._work:
                self._running, self._left = running, left

    def _report_libraries(self) -> None:
        for text in self._tail.news():
            self.line(f"from Ray or MLflow: {text}")

    def _counts(self) -> str:
        return f"[{self.done}/{self.total}] " if self.total else ""

    def _status(self) -> str:
        """Where the sweep stands, in a line for a log."""
        running = list(self._running)
        elapsed = duration(time.monotonic() - self._began)
        shown = "; ".join(_sentence(item) for item in running[:NAMED_IN_LOG]) or f"for {elapsed}"
        more = f"; and {len(running) - NAMED_IN_LOG} more" if len(running) > NAMED_IN_LOG else ""
        left = f"; {_about(self._left)}" if self._left is not None else ""
        return f"{self._counts()}{self._phase}: {shown}{more}{left}"

    def _picture(self, columns: int, lines: int) -> Group:
        """The same as a table for a screen of this size."""
        running = list(self._running)
        room = max(1, lines - 6)
        shown = running if len(running) <= room else running[: room - 1]
        parts: list[Any] = [self._head(columns)]
        if shown:
            parts.append(_table(shown, columns))
        if len(running) > len(shown):
            parts.append(Text(f"and {len(running) - len(shown)} more running", style="dim"))
        # Room for the ^C that a terminal echoes: were it on the next line, the picture would not be drawn over.
        parts.append(Text(shorten(self.footer, max(columns - 4, 8)), style="dim", no_wrap=True, overflow="crop"))
        return Group(*parts)

    def _head(self, columns: int) -> Table:
        """The sweep in a line: in a narrow one the bar gives way first, then the name, then the phase."""
        left = _about(self._left) if self._left is not None else duration(time.monotonic() - self._began)
        counts = self._counts()
        state = f"{counts}{shorten(self._phase, max(columns - len(counts) - len(left) - 2, 8))}, {left}"
        room = columns - len(state) - 1
        name = shorten(self.name, room) if room >= LEAST else ""
        bar = min(30, room - len(name) - 1)
        cells: list[Any] = [Text(name, style="bold")] if name else []
        if self.total and bar >= LEAST:
            cells.append(ProgressBar(self.total, self.done, width=bar))
        head = Table.grid(padding=(0, 1, 0, 0), expand=False)
        head.add_row(*cells, Text(state, no_wrap=True, overflow="ellipsis"))
        return head


@contextlib.contextmanager
def open_screen(name: str, log: Path, footer: str, quiet: bool, signals: Signals) -> Iterator[Screen]:
    """Shows a screen while the block runs; what libraries print meanwhile goes to the log.

    Args:
        name: the sweep's.
        log: the file that gets every event.
        footer: how to stop and how to go on.
        quiet: show nothing.
        signals: never end the process while the terminal is half written, and leave it as it was.
    """
    with contextlib.ExitStack() as stack:
        with signals.deferred():
            people, file = stack.enter_context(aside(log))
            screen = Screen(name, people, file, Tail(log), footer, quiet, signals.deferred)
            signals.leave = screen.close
            stack.enter_context(screen)
        yield screen


def _about(seconds: float) -> str:
    return f"about {duration(seconds)} left"


def _sentence(item: RunningTrial) -> str:
    label, phase, step, loss, speed, memory = progress_cells(item)
    return " ".join(filter(None, (label, phase, step, loss and f"loss {loss}", speed and f"{speed} images/s", memory)))


def _table(running: Sequence[RunningTrial], columns: int) -> Table:
    names = PROGRESS_COLUMNS
    rows = [progress_cells(item) for item in running]
    kept = [index for index in range(1, len(names)) if any(row[index] for row in rows)]
    widths = {index: max(len(names[index]), *(len(row[index]) for row in rows)) for index in (0, *kept)}
    # The label gives way, then the notes of what has no steps, then whole columns, so that no number is ever cut.
    steps = max((len(row[2]) for row, item in zip(rows, running, strict=True) if item.total_steps), default=0)
    for index, least in ((0, LEAST), (2, max(LEAST, steps))):
        excess = _width(widths) - columns
        if index in widths and excess > 0:
            widths[index] = min(widths[index], max(least, widths[index] - excess))
    for index in (5, 4, 1, 3):
        if _width(widths) > columns:
            widths.pop(index, None)
    # Where columns were left out, the label may have some of their room.
    widths[0] = min(max(len(row[0]) for row in (names, *rows)), max(LEAST, widths[0] + columns - _width(widths)))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for index, width in widths.items():
        numeric = index > 2 or (index == 2 and any(item.total_steps for item in running))
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(names[index], justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*(row[index] for index in widths))
    return table


def _width(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)

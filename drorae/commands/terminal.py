"""How commands print: results on stdout, notes and signs of life on stderr, both as wide as the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from drorae.redaction import redact, redact_tree
from drorae.runtime.signals import WORDS, Interrupted, Stopped
from drorae.runtime.text import wrapped
from drorae.training.rows import HELD_OUT_PSNR

if TYPE_CHECKING:
    from rich.live import Live

PATIENCE = 1.0
"""Seconds that a command may take before it says what it is doing."""
SILENCE_SECONDS = 25.0
"""Between two lines of progress in a log."""
_spinner: Live | None = None
"""The sign of life that is on the terminal now."""


def say(text: str, keep: Iterable[object] = ()) -> None:
    """Prints a note for people on stderr, where it cannot mix with results; broken into lines as `wrapped` does."""
    text = wrapped(redact(text), terminal_width(sys.stderr), map(redact, map(str, keep)))
    if _spinner is None:
        print(text, file=sys.stderr, flush=True)
    else:
        _spinner.console.print(text, markup=False, highlight=False, soft_wrap=True)


def show(text: str, keep: Iterable[object] = (), hang: int = 4) -> None:
    """Prints a result in words on stdout, broken into lines as `wrapped` does."""
    print(wrapped(redact(text), terminal_width(sys.stdout), map(redact, map(str, keep)), hang))


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of the terminal that a stream is on; None where it is on none."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def print_json(tree: Any) -> None:
    """Prints one JSON object on stdout."""
    print(json.dumps(redact_tree(tree), indent=2, allow_nan=False))


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    *,
    drop: Sequence[str] = (),
    whole: str = "--json prints all",
) -> None:
    """Prints a table on stdout, as wide as it needs to be in a pipe.

    On a terminal that it does not fit, columns are left out until it does. If it still does not fit, each row becomes
    a block of lines, with all columns.

    Args:
        header: names of the columns.
        rows: a text for each column.
        title: a line above the table.
        drop: columns that may be left out, the first one first; a note says which were.
        whole: says in that note where all columns are.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Column, Table
    from rich.text import Text

    cells = [tuple(map(redact, row)) for row in rows]
    width = terminal_width(sys.stdout)

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            # rich would end the process with a code of its own.
            raise BrokenPipeError

    console = Piped(width=width or 1000, highlight=False)
    unlimited = console.options.update(max_width=1_000_000)
    if title:
        show(title, keep=(title,))
    for count in range(len(drop) + 1):
        kept = [index for index, name in enumerate(header) if name not in drop[:count]]
        table = Table(*(Column(Text(header[index]), no_wrap=True) for index in kept))
        for row in cells:
            table.add_row(*(Text(row[index]) for index in kept))
        if width is None or Measurement.get(console, unlimited, table).maximum <= width:
            console.print(table)
            if count:
                say(f"left out, for want of room: {', '.join(drop[:count])}; {whole}")
            return
    for row in cells:
        show("\n  ".join(f"{name}: {value}" for name, value in zip(header, row, strict=True)))


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows on stderr that a command is at work, once it has been for `PATIENCE` seconds, and `what` it does.

    On a terminal that is a line that moves, and goes when the work is done; in a log, a plain line every
    `SILENCE_SECONDS`. What the block gets takes a trial's rows of progress, and says what is in them.

        with working(f"measuring {directory}") as note:
            load_trained(directory, runtime, report=note)
    """
    over, state = threading.Event(), ""
    spinner = _make_spinner(lambda: f"{what}: {state}" if state else f"{what} ...")

    def watch() -> None:
        global _spinner
        if over.wait(PATIENCE):
            return
        if spinner is not None:
            with spinner:
                _spinner = spinner
                over.wait()
                _spinner = None
            return
        say(f"{what} ...")
        began = time.monotonic()
        while not over.wait(SILENCE_SECONDS):
            say(f"{what}: {state or f'for {time.monotonic() - began:.0f} s'}")

    def note(row: Mapping[str, Any]) -> None:
        nonlocal state
        state = _progress_text(row)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield note
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def ending(what: str, remedy: str = "") -> Iterator[None]:
    """Says what is left, and the command that goes on, where Ctrl-C, TERM or HUP ends the block."""
    try:
        yield
    except (Interrupted, Stopped) as end:
        with contextlib.suppress(OSError):
            say(f"{WORDS[end.signum]}: {what}{remedy}", keep=[remedy] if remedy else [])
        end.said = True
        raise


def _make_spinner(text: Callable[[], str]) -> Live | None:
    """Returns a line that moves, not yet shown, with a text of the moment; None where stderr is no such terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    if console.is_dumb_terminal:
        return None
    line = Spinner("line")

    def moved() -> Spinner:
        line.text = Text(text(), no_wrap=True, overflow="ellipsis")
        return line

    # Results go where stdout goes, never through this console.
    return Live(console=console, transient=True, redirect_stdout=False, refresh_per_second=8, get_renderable=moved)


def _progress_text(row: Mapping[str, Any]) -> str:
    """Returns a row of a trial's progress in words."""
    if "note" in row:
        counted = f", {row['done']:.0f} of {row['total']:.0f}" if row.get("total", 0) > 1 else ""
        return f"{row['note']}{counted}"
    total = f" of {row['total_steps']:.0f}" if row.get("total_steps") else ""
    loss = f", loss {row['loss']:.5g}" if "loss" in row else ""
    loss += f", held-out PSNR {row[HELD_OUT_PSNR]:.2f} dB" if HELD_OUT_PSNR in row else ""
    speed = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
    return f"{row.get('phase', '')} step {row.get('step', 0):.0f}{total}{loss}{speed}"

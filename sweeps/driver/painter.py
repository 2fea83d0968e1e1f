"""How each kind of screen is written to: a terminal, a notebook's cell, a log."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live

from drorae.runtime.text import wrapped
from sweeps.driver.output import in_notebook

SIZE = (80, 24)
"""Columns and lines of a terminal that does not know its own."""
NOTEBOOK_SIZE = (100, 40)
Picture = Callable[[int, int], Group]
"""Draws the table for so many columns and lines."""


class Painter:
    """How a kind of screen is written to; this one shows nothing."""

    def start(self, picture: Picture, footer: str) -> None:
        """Begins to show the picture."""

    def line(self, text: str, remedy: str) -> None:
        """Shows an event, which stays."""

    def status(self, text: str) -> None:
        """Says where things stand, on a screen that shows no picture."""

    def refresh(self) -> None:
        """Draws the picture again."""

    def stop(self, last: str) -> None:
        """Takes the picture away; `last` stands for it where a gap would remain."""


class _Log(Painter):
    """A pipe, a file or a terminal that cannot move its cursor: plain lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def start(self, picture: Picture, footer: str) -> None:
        self.line(footer)

    def line(self, text: str, remedy: str = "") -> None:
        self._stream.write(f"{text}{remedy}\n")
        self._stream.flush()

    def status(self, text: str) -> None:
        self.line(text)


class _Terminal(Painter):
    """The picture below the events, drawn over itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False, emoji=False, markup=False)
        self._live: Live | None = None

    def start(self, picture: Picture, footer: str) -> None:
        def draw() -> Group:
            columns, lines = self._measure()
            return picture(columns, lines)

        self._measure()
        self._live = Live(
            get_renderable=draw, console=self._console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start(refresh=True)

    def line(self, text: str, remedy: str) -> None:
        text = wrapped(text + remedy, self._measure()[0], filter(None, [remedy]), hang=0)
        self._console.print(text, soft_wrap=True)

    def refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def stop(self, last: str) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _measure(self) -> tuple[int, int]:
        # rich asks stdin, stdout and stderr, which lead elsewhere meanwhile.
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except OSError:
            columns, lines = SIZE
        columns, lines = columns or SIZE[0], lines or SIZE[1]
        self._console.width, self._console.height = columns, lines
        return columns, lines


class _Notebook(Painter):
    """The output of a cell: events as lines, and the picture in an output that is replaced."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._handle: Any = None
        self._picture: Picture | None = None
        self._shown = ""

    def start(self, picture: Picture, footer: str) -> None:
        self._picture = picture
        self.refresh()

    def line(self, text: str, remedy: str) -> None:
        self._stream.write(f"{text}{remedy}\n")

    def refresh(self) -> None:
        if self._picture is not None:
            columns, lines = NOTEBOOK_SIZE
            text = io.StringIO()
            console = Console(file=text, width=columns, force_jupyter=False, force_terminal=False, no_color=True)
            console.print(self._picture(columns, lines))
            self._show(text.getvalue())

    def stop(self, last: str) -> None:
        if self._picture is not None:
            self._picture = None
            self._show(last)

    def _show(self, text: str) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        elif text != self._shown:
            self._handle.update({"text/plain": text}, raw=True)
        self._shown = text


def choose_painter(stream: TextIO) -> Painter:
    """Returns the painter for a stream: a notebook's, a terminal's, or that of a log."""
    if in_notebook():
        return _Notebook(stream)
    dumb = os.environ.get("TERM", "dumb").lower() in ("dumb", "unknown", "")
    return _Terminal(stream) if stream.isatty() and not dumb else _Log(stream)

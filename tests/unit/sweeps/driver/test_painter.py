"""Each kind of screen gets what it can show: a terminal a picture, a log plain lines."""

from __future__ import annotations

import contextlib
import io
import os

import pytest
from rich.console import Group
from rich.text import Text

from sweeps.driver.painter import Painter, choose_painter


def picture(columns: int, lines: int) -> Group:
    return Group(Text(f"{columns} x {lines}"))


def show(painter: Painter) -> None:
    painter.start(picture, "Ctrl-C stops it")
    painter.line("to go on: ", "drorae resume mine")
    painter.refresh()
    painter.status("3 of 12")
    painter.stop("over")


def test_a_log_gets_plain_lines_and_no_picture() -> None:
    stream = io.StringIO()
    show(choose_painter(stream))
    assert stream.getvalue() == "Ctrl-C stops it\nto go on: drorae resume mine\n3 of 12\n"


@pytest.mark.parametrize("kind", ["xterm-256color", "dumb"])
def test_a_terminal_gets_a_picture_unless_it_cannot_move_its_cursor(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", kind)
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:
        show(choose_painter(stream))
    # What was written comes in pieces; the end is an error, as nobody has the other side open any more.
    said = ""
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 1 << 16).decode():
            said += piece
    os.close(ours)
    # A terminal without a size of its own has 80 columns.
    assert ("80 x 24" in said) == ("\x1b" in said) == (kind != "dumb")
    assert "drorae resume mine" in said and ("3 of 12" in said) == (kind == "dumb")


def test_what_is_quiet_shows_nothing() -> None:
    show(Painter())

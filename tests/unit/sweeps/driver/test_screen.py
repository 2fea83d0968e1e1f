"""What a sweep shows while it runs: its picture on terminals of every size, its lines in a log."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import math
import os
import pty
import re
import struct
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from sweeps.driver import screen
from sweeps.driver.console import duration
from sweeps.driver.output import OURS, Tail, Unfailing
from sweeps.driver.screen import NAMED_IN_LOG, Screen
from sweeps.folder.progress import RunningTrial

FOOTER = "Ctrl-C stops it; to go on: drorae resume my-sweep --root /a/path/that/is/somewhat/long"
LABELS = (
    "seed=0",
    "fusion.variant=cross_attention capacity=123456 phase2.lr=0.00031622776 encoder=dinov2-large seed=17",
)
NAMES = ("my-sweep", "capacity-of-the-fusion-by-seed-and-learning-rate-2025-01-31")
PHASES = ("training", "writing the table and the records")
LOSSES = (0.123456, math.nan, None, 1e-9, 123456789.0, math.inf)


def trial(index: int, label: str) -> RunningTrial:
    """One of trials that are all different."""
    far = index % 2 == 0
    step, total = (123456, 2000000) if far else (1, 2)
    loss = LOSSES[index % len(LOSSES)]
    speed, memory = (1234567.2, 123.456e9) if far else (0.0, 0.0)
    known = index % 3 != 2
    return RunningTrial(
        label, "phase2", step, total, "", loss, speed if known else None, memory if known else None
    )  # fmt: skip


class Work:
    """A session that stands still."""

    def __init__(self, running: Sequence[RunningTrial] = (), left: float | None = None) -> None:
        self.items, self.left = list(running), left

    def running(self) -> list[RunningTrial]:
        return self.items

    def seconds_left(self) -> float | None:
        return self.left


class Terminal:
    """A pseudo-terminal of some size with a person before it: a stream to write to, and what is to be seen."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.ours, theirs = pty.openpty()
        self.stream = open(theirs, "w", buffering=1)  # noqa: SIM115
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._feed = pyte.ByteStream(self._screen)
        self.raw = b""
        os.set_blocking(self.ours, False)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        self.read()
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)
        self.columns, self.lines = columns, lines

    def read(self) -> None:
        # A few pages at most: on a busy machine more may be written meanwhile than is read, for ever.
        with contextlib.suppress(BlockingIOError, OSError):
            for _ in range(16):
                piece = os.read(self.ours, 1 << 16)
                self.raw += piece
                self._feed.feed(piece)

    def shown(self) -> list[str]:
        self.read()
        rows = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(self.lines))]
        lines = ["".join(row[column].data for column in range(self.columns)).rstrip() for row in rows]
        while lines and not lines[-1]:
            del lines[-1]
        return lines

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()
        with contextlib.suppress(OSError):
            os.close(self.ours)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Makes pseudo-terminals, of a kind that can move its cursor."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    with contextlib.ExitStack() as stack:

        def make(columns: int = 80, lines: int = 24) -> Terminal:
            made = Terminal(columns, lines)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen that looks and speaks often."""
    monkeypatch.setattr(screen, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(screen, "SILENCE_SECONDS", 0.1)


def make(tmp_path: Path, stream: object, log: io.StringIO | None = None, quiet: bool = False) -> Screen:
    where = io.StringIO() if log is None else log
    made = Screen("my-sweep", stream, where, Tail(tmp_path / "driver.log"), FOOTER, quiet)  # type: ignore[arg-type]
    made.total = 12
    return made


def until(condition: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def numbers(item: RunningTrial) -> dict[str, str]:
    """What is to be read of a trial's numbers in each column."""
    found = {"step": f"{item.step}/{item.total_steps}"}
    if item.loss is not None:
        found["loss"] = f"{item.loss:.3g}"
    if item.images_per_second is not None:
        found["images/s"] = f"{item.images_per_second:,.0f}"
    if item.memory_bytes is not None:
        found["memory"] = f"{item.memory_bytes / 1e9:.1f} GB"
    return found


def draw(made: Screen, columns: int, lines: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=columns, height=lines, color_system=None).print(made._picture(columns, lines))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("lines", [10, 24, 50])
def test_the_picture_fits_and_cuts_no_number(tmp_path: Path, columns: int, lines: int) -> None:
    made = make(tmp_path, io.StringIO())
    many = itertools.product((0, 1, 3, 100), LABELS, (None, 34.0, 123456.0), NAMES, PHASES)
    for count, label, left, made.name, made._phase in many:
        made._running = [trial(index, f"{label} n={index}") for index in range(count)]
        made._left, made.done = left, 7
        drawn = draw(made, columns, lines)
        picture = "\n".join(drawn)
        assert max(map(len, drawn)) <= columns, picture
        # One line is left for the cursor.
        assert len(drawn) < lines, picture
        assert "[7/12]" in drawn[0], picture
        assert left is None or f"about {duration(left)} left" in drawn[0], picture
        rows = [line for line in drawn[2:-1] if "more running" not in line]
        named = re.search(r"^and (\d+) more running$", picture, re.MULTILINE)
        assert len(rows) + (int(named[1]) if named else 0) == count
        assert bool(named) == (count > len(rows)) == (count > lines - 6)
        header = drawn[1].split() if count else []
        if count:
            assert header[0] == "running"
            assert {"step"} <= set(header) <= {"running", "phase", "step", "loss", "images/s", "memory"}
            # From some width on nothing is left out.
            assert columns < 80 or {"phase", "loss", "images/s", "memory"} <= set(header)
        for item, row in zip(made._running, rows, strict=False):
            assert row.startswith(item.label[:7])
            for name, number in numbers(item).items():
                assert name not in header or f" {number} " in f"{row} ", (name, picture)
            assert columns < 200 or item.label in row
        assert drawn[-1].startswith("Ctrl-C stops it")
        # ^C is echoed behind it.
        assert len(drawn[-1]) <= columns - 2


def test_what_is_not_known_takes_no_room(tmp_path: Path) -> None:
    made = make(tmp_path, io.StringIO())
    made._running = [RunningTrial.from_progress("seed=0", {}), RunningTrial.from_progress("seed=1", {})]
    made._phase = "training"
    _head, header, *rows, _ = draw(made, 80, 24)
    assert header.split() == ["running", "phase"]
    assert [row.split() for row in rows] == [["seed=0", "starting"], ["seed=1", "starting"]]
    # A loss of one trial, the steps of another, a note of the third.
    made._running += [RunningTrial("seed=2", "phase1", 1, 2, "", math.nan)]
    made._running += [RunningTrial("seed=3", "evaluate", 0, 0, "measuring all of the pictures 3 of 10")]
    for columns in (60, 80):
        _, header, *rows, _ = draw(made, columns, 24)
        assert header.split() == ["running", "phase", "step", "loss"]
        assert rows[2].split() == ["seed=2", "phase1", "1/2", "nan"]
        assert "measuring all of" in rows[3]


def test_no_total_is_shown_before_it_is_known(tmp_path: Path) -> None:
    made = make(tmp_path, io.StringIO())
    made.total = 0
    (head, _footer) = draw(made, 80, 24)
    assert head.split() == ["my-sweep", "starting,", "0", "s"]
    assert "[" not in made._status()


def test_on_a_terminal_it_is_drawn_in_place(tmp_path: Path, terminal: Callable[..., Terminal], quick: None) -> None:
    seen, log = terminal(80, 24), io.StringIO()
    with make(tmp_path, seen.stream, log) as made:
        made.line("my-sweep: 12 trials, results in ", "/a/folder")
        made.doing("training", Work([trial(index, f"seed={index}") for index in range(3)], 60.0))
        until(lambda: any("seed=2" in line for line in seen.shown()))
        made.ended("seed=9 psnr=20 3 s")
        # Silence of any length: the picture is what speaks.
        time.sleep(0.5)
        shown = seen.shown()
        assert shown[:2] == ["my-sweep: 12 trials, results in /a/folder", "[1/12] seed=9 psnr=20 3 s, about 60 s left"]
        assert len(shown) == 2 + 1 + 1 + 3 + 1
        assert shown[-1].startswith("Ctrl-C stops it")
        assert b"\x1b[?25l" in seen.raw
    # What happened stays, the picture goes, the cursor is back.
    assert seen.shown() == shown[:2]
    assert seen.raw.rfind(b"\x1b[?25h") > seen.raw.rfind(b"\x1b[?25l")
    made.close()
    assert [line[len(OURS) + 20 :] for line in log.getvalue().splitlines()] == shown[:2]


def test_it_follows_a_terminal_that_is_resized(tmp_path: Path, terminal: Callable[..., Terminal], quick: None) -> None:
    seen = terminal(120, 24)
    with make(tmp_path, seen.stream) as made:
        made.doing("training", Work([trial(index, f"{LABELS[1]} n={index}") for index in range(30)], 60.0))
        until(lambda: any("and 13 more running" in line for line in seen.shown()))
        for columns, lines, more in ((200, 50, 0), (60, 24, 13), (80, 12, 25)):
            seen.resize(columns, lines)
            start = len(seen.raw)
            # Three pictures of the new size, whatever the old ones left.
            until(lambda start=start: (seen.read(), seen.raw[start:].count(b"my-sweep") >= 3)[1])
            text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen.raw[start:]).decode()
            last = text[text[: text.rindex("my-sweep")].rindex("my-sweep") : text.rindex("my-sweep")]
            drawn = [line.strip("\r") for line in last.split("\n")]
            assert max(map(len, drawn)) <= columns
            assert len(drawn) < lines
            assert (f"and {more} more running" in drawn) == (more > 0)


@pytest.mark.parametrize("kind", ["dumb", "unknown", "", None])
def test_a_dumb_terminal_gets_plain_lines(
    tmp_path: Path, terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch, quick: None, kind: str | None
) -> None:
    seen = terminal(80, 24)
    if kind is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", kind)
    with make(tmp_path, seen.stream) as made:
        made.doing("training", Work([trial(0, "seed=0")], 60.0))
        made.line("an event")
        until(lambda: any("[0/12] training: seed=0" in line for line in seen.shown()))
    assert b"\x1b" not in seen.raw
    assert seen.shown()[:2] == [FOOTER[:80], FOOTER[80:]]
    assert "an event" in seen.shown()


def test_a_log_hears_from_a_silent_sweep(tmp_path: Path, quick: None) -> None:
    people, log = io.StringIO(), io.StringIO()
    with make(tmp_path, people, log) as made:
        made.doing("training", Work([trial(index, f"seed={index}") for index in range(6)], 34.0))
        made.done = 2
        until(lambda: people.getvalue().count("training: seed=0") >= 2)
        made.doing("writing the table")
        until(lambda: "writing the table: for " in people.getvalue())
    first, *others = people.getvalue().splitlines()
    assert first == FOOTER
    line = next(line for line in others if "seed=0" in line)
    assert line == (
        "[2/12] training: seed=0 phase2 123456/2000000 loss 0.123 1,234,567 images/s 123.5 GB; "
        "seed=1 phase2 1/2 loss nan 0 images/s 0.0 GB; seed=2 phase2 123456/2000000; "
        "seed=3 phase2 1/2 loss 1e-09 0 images/s 0.0 GB; and 2 more; about 34 s left"
    )
    assert line.count("phase2") == NAMED_IN_LOG
    assert any(re.fullmatch(r"\[2/12\] writing the table: for \d+ s", line) for line in others)
    # Where things stand is for people who wait; a file keeps what happened.
    assert log.getvalue() == ""


def test_a_log_hears_no_more_than_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(screen, "SILENCE_SECONDS", 2.0)
    people = io.StringIO()
    with make(tmp_path, people) as made:
        made.doing("training", Work([trial(0, "seed=0")]))
        # While something happens, nothing is said beside it.
        for number in range(50):
            made.line(f"event {number}")
            time.sleep(0.05)
        assert "training" not in people.getvalue()
        began = time.monotonic()
        until(lambda: people.getvalue().count("training: seed=0") == 3)
    assert time.monotonic() - began > 5.5
    monkeypatch.undo()
    assert screen.SILENCE_SECONDS <= 30


@pytest.mark.parametrize("kind", ["a log", "a terminal", "quiet"])
def test_events_are_kept_with_their_time_whatever_is_shown(
    tmp_path: Path, terminal: Callable[..., Terminal], quick: None, kind: str
) -> None:
    log, people = io.StringIO(), io.StringIO()
    stream = terminal(40, 10).stream if kind == "a terminal" else people
    with make(tmp_path, stream, log, quiet=kind == "quiet") as made:
        made.line("my-sweep: 12 trials, results in ", "/a/folder with spaces")
        made.doing("training", Work([trial(0, "seed=0")], 34.0))
        made.ended("seed=0 psnr=20 3 s")
        # Of the libraries, what a user can act on.
        with (tmp_path / "driver.log").open("a") as file:
            file.write("(raylet) noise\n(raylet) /tmp is over 95% full, available space: 3 GB\n")
        until(lambda: "95% full" in log.getvalue())
        with (tmp_path / "driver.log").open("a") as file:
            file.write("OSError: [Errno 24] Too many open files\n")
    events = [
        "my-sweep: 12 trials, results in /a/folder with spaces",
        "[1/12] seed=0 psnr=20 3 s, about 34 s left",
        "from Ray or MLflow: /tmp is over 95% full, available space: 3 GB",
        # It came last, and is not lost.
        "from Ray or MLflow: OSError: [Errno 24] Too many open files",
    ]
    kept = [re.fullmatch(rf"{OURS}\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line) for line in log.getvalue().splitlines()]
    assert [match and match[1] for match in kept] == events
    if kind == "quiet":
        assert people.getvalue() == ""
    elif kind == "a log":
        assert [line for line in people.getvalue().splitlines() if line in events] == events


def test_the_last_trial_leaves_no_time(tmp_path: Path) -> None:
    people = io.StringIO()
    made = make(tmp_path, people)
    made.total = 2
    made.doing("training", Work([], 34.0))
    made.ended("seed=0")
    made.ended("seed=1")
    assert people.getvalue() == "[1/2] seed=0, about 34 s left\n[2/2] seed=1\n"


def test_commands_are_never_broken(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    seen = terminal(40, 24)
    remedy = "drorae resume my-sweep --root '/a/path that is/somewhat long' --more and more"
    with make(tmp_path, seen.stream) as made:
        made.line("interrupted: 3 of 12 trials are done; to go on: ", remedy)
    text = seen.shown()
    # The terminal itself breaks the line, which copying does not see: no newline was written into it.
    assert remedy.encode() in seen.raw
    assert text[:2] == ["interrupted: 3 of 12 trials are done; to", "go on:"]


def test_brackets_and_smileys_stay_what_they_are(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    seen = terminal(80, 24)
    said = "[bold]seed[/bold]=0 :smile: [/] failed: list index [3] 'a' 12.5 http://a.b"
    with make(tmp_path, seen.stream) as made:
        made.line(said)
        made.doing("training", Work([trial(0, "[red]x[/red] :smile:")]))
    assert seen.shown() == [said]
    assert said.encode() in seen.raw


def test_a_closed_terminal_does_no_harm(tmp_path: Path, terminal: Callable[..., Terminal], quick: None) -> None:
    seen, log = terminal(), io.StringIO()
    with make(tmp_path, Unfailing(seen.stream), log) as made:
        made.doing("training", Work([trial(0, "seed=0")]))
        until(lambda: any("seed=0" in line for line in seen.shown()))
        os.close(seen.ours)
        made.line("an event")
        time.sleep(0.2)
        made.line("another")
        assert made._thread.is_alive()
    assert [line.split()[-1] for line in log.getvalue().splitlines()] == ["event", "another"]


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_broken_pipe_does_no_harm(tmp_path: Path, quick: None) -> None:
    log = io.StringIO()
    with make(tmp_path, Unfailing(Broken()), log) as made:
        made.doing("training", Work([trial(0, "seed=0")]))
        made.line("an event")
        time.sleep(0.3)
        assert made._thread.is_alive()
    assert log.getvalue().endswith(" an event\n")


def test_files_that_vanish_while_they_are_read_do_no_harm(tmp_path: Path, quick: None) -> None:
    class Vanishing(Work):
        count = 0

        def running(self) -> list[RunningTrial]:
            self.count += 1
            if self.count % 2:
                raise FileNotFoundError("progress.json")
            return [trial(0, "seed=0")]

    people = io.StringIO()
    work = Vanishing()
    with make(tmp_path, people) as made:
        made.doing("training", work)
        until(lambda: work.count >= 4)
        until(lambda: "training: seed=0" in people.getvalue())
        assert made._thread.is_alive()


def test_it_keeps_nothing_of_a_work_that_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is let go of in its owner's thread, not at the screen's next look."""
    monkeypatch.setattr(screen, "REFRESH_SECONDS", 1.0)
    seen = threading.Event()

    class Seen(Work):
        def seconds_left(self) -> float | None:
            seen.set()
            return None

    work = Seen([trial(0, "seed=0")])
    gone = weakref.ref(work)
    with make(tmp_path, io.StringIO()) as made:
        made.doing("preparing", work)
        assert seen.wait(30)
        time.sleep(0.1)
        made.doing("training")
        del work
        assert gone() is None

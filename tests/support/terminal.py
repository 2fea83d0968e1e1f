"""`drorae` as a person meets it: the command in a process of its own, on a pseudo-terminal or in pipes.

    done = run(["fit", "runs.csv", "--y", "rfid"], columns=60)            # on a terminal of 60 columns
    done = run([...], on="stderr")                                        # drorae ... | less: stderr on the terminal
    done = run([...], on="none")                                          # drorae ... > log 2>&1
    done = run([...], environment={"TERM": "dumb"}, patch=function)       # function() runs in the child before main
    done = run([...], then=[("phase 2", CTRL_C)])                         # types Ctrl-C once "phase 2" is to be read
    done = run([...], then=[("phase 2", signal.SIGTERM), ("stopping", signal.SIGTERM)], seconds=120)
    done = run([...], then=[("phase 2", HANG_UP)])                        # the window is closed: SIGHUP, then EIO
    done.code, done.terminal, done.stdout, done.stderr, done.screen()

Children are forked from a server (`children`), so that a case costs little more than its own work.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import pty
import re
import selectors
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from children import forking

ROOT = Path(__file__).resolve().parents[2]
PAPER = str(ROOT / "results" / "paper" / "capacity.csv")
MODES: dict[str, dict[str, Any]] = {
    "60 columns": {"columns": 60},
    "200 columns": {"columns": 200},
    "dumb": {"environment": {"TERM": "dumb"}},
    "no colour": {"environment": {"NO_COLOR": "1"}},
    "stderr alone": {"on": "stderr"},
    "pipes": {"on": "none"},
}
CTRL_C = b"\x03"
HANG_UP = "hang up"
"""Closes the terminal, as its window's button does."""

Action = bytes | signal.Signals | Literal["hang up"] | Callable[[int], None]
"""What is done to the child: bytes are typed, a signal is sent to its process alone, a function gets its pid."""

SILENCE = 0.3
"""Seconds after the child's end in which its own children may still write."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[^\[\]]")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    """Its exit code; -N where signal N ended it."""
    terminal: str
    """Everything written to the terminal, control codes included, lines ending in \\n."""
    stdout: str
    """What went into stdout's pipe; empty where stdout was the terminal."""
    stderr: str
    seconds: float
    columns: int
    rows: int

    @property
    def text(self) -> str:
        """Everything written anywhere, without control codes."""
        return CONTROL.sub("", self.terminal + self.stdout + self.stderr)

    def screen(self) -> list[str]:
        """The lines that a person sees at the end, those scrolled off the top included."""
        import pyte

        screen = pyte.HistoryScreen(self.columns, self.rows, history=100_000)
        pyte.Stream(screen).feed(self.terminal.replace("\n", "\r\n"))
        lines = [*screen.history.top, *(screen.buffer[row] for row in range(self.rows))]
        shown = ["".join(line[column].data for column in range(self.columns)).rstrip() for line in lines]
        while shown and not shown[-1]:
            del shown[-1]
        return shown


def run(
    arguments: Sequence[str],
    *,
    on: Literal["all", "stderr", "none"] = "all",
    columns: int = 80,
    rows: int = 24,
    environment: Mapping[str, str | None] | None = None,
    cwd: str | Path | None = None,
    patch: Callable[[], object] | None = None,
    then: Sequence[tuple[str, Action]] = (),
    seconds: float = 300.0,
    program: str = "drorae",
) -> Done:
    """Runs `drorae` with `arguments` and returns when it has ended.

    Args:
        arguments: those of `drorae.commands.main.main`.
        on: what is on the terminal: all of stdin, stdout and stderr; all but stdout; or none, with no terminal at all.
        columns: the terminal's width.
        rows: the terminal's height.
        environment: changes to this process's environment; None removes a variable.
        cwd: folder to run in; default: this process's.
        patch: called in the child before the command; a function of a module, as it is pickled.
        then: what to do when a text has appeared, in this order, each text looked for behind the one before; an empty
            one appears as the command begins.
        seconds: time limit.
        program: what sys.argv[0] says.

    Raises:
        TimeoutError: the command took longer and was killed, or ended before all of `then` was done.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    out, out_end = multiprocessing.Pipe(duplex=False)
    err, err_end = multiprocessing.Pipe(duplex=False)
    ready, ready_end = multiprocessing.Pipe(duplex=False)
    settings = {
        name: value
        for name, value in ({**os.environ, "TERM": "xterm-256color"} | _NEUTRAL | dict(environment or {})).items()
        if value is not None
    }
    tty = None if on == "none" else os.ttyname(theirs)
    given = (tty, None if on == "all" else out_end, err_end if on == "none" else None, ready_end)
    child = forking().Process(
        target=_child,
        args=(given, settings, str(cwd or Path.cwd()), patch, [program, *arguments]),
    )
    start = time.monotonic()
    child.start()
    for end in (out_end, err_end, ready_end):
        end.close()
    pid = child.pid
    assert pid is not None
    written = {ours: bytearray(), out.fileno(): bytearray(), err.fileno(): bytearray()}
    todo, seen, begun, ended = list(then), "", False, None
    with (
        contextlib.ExitStack() as their_end,
        contextlib.ExitStack() as our_end,
        selectors.DefaultSelector() as selector,
    ):
        our_end.callback(os.close, ours)
        their_end.callback(os.close, theirs)
        for source in (*written, ready.fileno(), child.sentinel):
            selector.register(source, selectors.EVENT_READ)
        while ended is None or selector.get_map():
            readable = [key.fd for key, _ in selector.select(0.1 if ended is None else SILENCE)]
            for source in readable:
                if source == ready.fileno():
                    # The pipe ends when the child has taken its place.
                    selector.unregister(source)
                    begun = True
                    continue
                if source == child.sentinel:
                    # From here on the terminal ends (EIO) once nobody else has it open.
                    selector.unregister(source)
                    their_end.close()
                    ended = time.monotonic()
                    continue
                try:
                    piece = os.read(source, 1 << 16)
                except OSError:
                    piece = b""
                if not piece:
                    selector.unregister(source)
                written[source] += piece
                seen += CONTROL.sub("", piece.decode(errors="replace"))
            while todo and todo[0][0] in seen and begun and ended is None:
                text, action = todo.pop(0)
                seen = seen[seen.index(text) + len(text) :]
                if action == HANG_UP:
                    selector.unregister(ours)
                    our_end.close()
                elif isinstance(action, bytes):
                    os.write(ours, action)
                elif isinstance(action, signal.Signals):
                    os.kill(pid, action)
                elif callable(action):
                    action(pid)
            if ended is not None and not readable:
                break
            if time.monotonic() - start > seconds:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                break
    child.join()
    terminal, stdout, stderr = (bytes(text).decode(errors="replace") for text in written.values())
    for source in (out, err, ready):
        source.close()
    done = Done(
        child.exitcode or 0, terminal.replace("\r\n", "\n"), stdout, stderr, time.monotonic() - start, columns, rows
    )
    child.close()
    if ended is None or todo:
        what = f"not over after {seconds:g} s" if ended is None else f"over before {todo[0][0]!r} appeared"
        raise TimeoutError(f"drorae {' '.join(arguments)}: {what}; it wrote:\n{done.text}")
    return done


_NEUTRAL: dict[str, str | None] = dict.fromkeys(
    ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM", "TTY_COMPATIBLE",
     "TTY_INTERACTIVE", "PYTEST_CURRENT_TEST", "PYTHONUNBUFFERED")
)  # fmt: skip
"""Variables that would decide for the terminal what it is."""


def _child(
    given: tuple[str | None, Connection | None, Connection | None, Connection],
    environment: dict[str, str],
    cwd: str,
    patch: Callable[[], object] | None,
    arguments: list[str],
) -> None:
    """Takes its place on the terminal, or in the pipes, and becomes `drorae`."""
    tty, out, err, ready = given
    os.setsid()
    # A session's first process that opens a terminal gets it as its own: Ctrl-C reaches it, and so does hanging up.
    terminal = os.open(tty or os.devnull, os.O_RDWR)
    if tty is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for target, source in ((0, None), (1, out), (2, err)):
        os.dup2(terminal if source is None else source.fileno(), target)
    for handle in (terminal, *(source.fileno() for source in (out, err) if source is not None)):
        os.close(handle)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    # As in a new interpreter, whatever the server and the tests' own process do with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = arguments
    if patch is not None:
        patch()
    ready.close()
    from drorae.commands.main import main

    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    atexit._run_exitfuncs()
    sys.exit(code)


def impatient() -> None:
    """In the child: signs of life from the beginning."""
    import drorae.commands.terminal

    drorae.commands.terminal.PATIENCE = 0.0


def patient() -> None:
    """In the child: no signs of life, which a busy machine may otherwise be slow enough for."""
    import drorae.commands.terminal

    drorae.commands.terminal.PATIENCE = 1e9


def check(done: Done, mode: str) -> None:
    """What holds of all that any command writes."""
    assert "Traceback" not in done.text, done.text
    everything = done.terminal + done.stdout + done.stderr
    if mode in ("dumb", "pipes"):
        assert not re.search(r"[\x1b\b\x07\r]", everything), everything
    assert not re.search(r"[\x1b\b\x07\r]", done.stdout)
    if mode == "no colour":
        for code in re.findall(r"\x1b\[([0-9;]*)m", everything):
            assert not re.search(r"\b(3[0-8]|4[0-8]|9\d|10[0-7])\b", code), repr(code)
    if mode != "pipes":
        for line in re.split(r"[\n\r]", CONTROL.sub("", done.terminal)):
            # Paths, and commands with paths, are the terminal's to break: what is copied stays whole.
            assert len(line) <= done.columns or ("/" in line and not set(line) & set("│┃")), line

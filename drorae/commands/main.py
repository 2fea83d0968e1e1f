"""The `drorae` command.

Results go to stdout; progress, notes and errors to stderr. Exit codes: 0 done, 1 something failed, 2 bad input,
130 interrupted, 143 terminated (TERM), 129 hung up (HUP), 141 the reader of the output has gone.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol, TextIO, Union, cast

import tyro

from drorae.commands.cluster import Cluster
from drorae.commands.compare import Compare
from drorae.commands.doctor import Doctor
from drorae.commands.evaluate import Eval
from drorae.commands.export import Export
from drorae.commands.fit import Fit
from drorae.commands.generate import Generate
from drorae.commands.inspect import Inspect
from drorae.commands.plan import Plan
from drorae.commands.predict import Predict
from drorae.commands.probe import Probe
from drorae.commands.report import Report
from drorae.commands.reproduce import Reproduce
from drorae.commands.resume import Resume
from drorae.commands.status import Status
from drorae.commands.sweep import Sweep
from drorae.commands.terminal import say
from drorae.commands.train import Train
from drorae.commands.ui import Ui
from drorae.errors import ClusterLostError, UserError, brief, notices_to, one_line
from drorae.machine.telemetry import set_telemetry_defaults
from drorae.redaction import redact, redact_logs
from drorae.runtime.signals import WORDS, Interrupted, Signals, Stopped
from drorae.storage.files import UNWRITABLE, disk_is_full, full_disk
from drorae.storage.remote import RemoteError, expanded

DESCRIPTION = """Scaling-law experiments on visual tokenizers: sweep a capacity axis, track every run, fit the law.

Start with: drorae doctor, then drorae sweep --preset smoke. --debug, anywhere, shows tracebacks."""

_KINDS = (
    Train, Eval, Inspect, Probe, Generate, Export, Sweep, Reproduce, Status, Resume, Fit, Predict, Plan, Compare,
    Report, Ui, Cluster, Doctor,
)  # fmt: skip
COMMANDS = {kind.__name__.lower(): kind for kind in _KINDS}
_CLUSTER = Cluster.__name__.lower()
EXTRAS = {
    "train": ("torch", "torchvision", "timm", "safetensors", "torchmetrics"),
    "sweeps": ("ray", "optuna", "mlflow"),
}
"""Packages that an extra of this distribution brings together."""
# What tyro reads the subcommands from, at run time.
_ANY_COMMAND: Any = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007


class Command(Protocol):
    """A parsed command, ready to run."""

    def run(self) -> int:
        """Does the work and returns the exit code."""


def parse(arguments: Sequence[str]) -> Command:
    """Returns the command that the arguments name; `cluster` takes that of a sweep after `--`.

    Raises:
        UserError: arguments that no command takes.
        SystemExit: help was asked for and printed.
    """
    if arguments[:1] != [_CLUSTER] or "--" not in arguments:
        return _parse(arguments)
    end = arguments.index("--")
    parsed, words = _parse(arguments[:end]), list(arguments[end + 1 :])
    for name in ("drorae", "sweep"):
        words = words[words[:1] == [name] :]
    if words[:1] and words[0] in COMMANDS:
        raise UserError(
            f"drorae cluster ... -- {words[0]}: expected a sweep, such as -- drorae sweep --preset capacity"
        )
    cast(Cluster, parsed).follow(cast(Sweep, _parse(["sweep", *words])), tuple(words))
    return parsed


def _parse(arguments: Sequence[str]) -> Command:
    # What is read before an error is wide, so that no line of the box that it comes in is broken.
    changes = {} if {"-h", "--help"} & set(arguments) else {"COLUMNS": "1000"}
    if os.environ.get("NO_COLOR"):
        # tyro knows of no other way to have no colours.
        changes["TERM"] = "dumb"
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ.update(changes)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed: Command = tyro.cli(
                _ANY_COMMAND,
                prog="drorae",
                description=DESCRIPTION,
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            return _at_home(parsed)
    except SystemExit as end:
        if end.code in (0, None):
            sys.stdout.flush()
            raise
        if end.code == 1 and not box.getvalue():
            # rich, which prints the help, ends so where nobody reads it.
            raise BrokenPipeError from None
        names = [name for name in arguments[:1] if name in COMMANDS]
        raise UserError(f"{box_text(box.getvalue())}; see {' '.join(['drorae', *names, '--help'])}") from None
    finally:
        for name in changes:
            del os.environ[name]
        os.environ.update(before)


def _say_notice(notice: Warning) -> None:
    """A line on stderr, without the place in the code that a warning names."""
    say(f"note: {one_line(notice)}")


def _at_home(parsed: Command) -> Command:
    """Puts the home folder in place of the `~` of paths that the shell left alone, as in --out=~/law."""
    for name, value in vars(parsed).items():
        if isinstance(value, Path):
            setattr(parsed, name, expanded(value))
    return parsed


def box_text(box: str) -> str:
    """Returns what tyro's error box says: the message, then hints such as the subcommands there are.

    tyro draws a box whose frame holds the title, or, where stdout takes ASCII only, a title above dashes.
    """
    # On a terminal the box is coloured.
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"^[─-]+$", "\n".join(lines), flags=re.MULTILINE)[0 if "╭" in box else 1 :]
    kept = []
    for section in sections:
        first, *rest = section.strip().splitlines() or [""]
        if first.startswith("Missing from"):
            wanted = [text for text in rest if not text.endswith(("(required)", "(repeatable)"))]
            kept.append(f"{first} {', '.join(wanted)}")
        elif first.startswith("Perhaps you meant"):
            # Each as often as there are subcommands that have it.
            options = dict.fromkeys(text.split()[0] for text in rest if text.startswith("--"))
            kept.append("perhaps you meant " + " or ".join(options))
        elif first and not first.startswith(("Argument helptext", "For full helptext")):
            kept.append(" ".join([first, *rest]))
    message = "; ".join(text.rstrip(".") for text in kept) or "the arguments do not fit"
    message = re.sub(r"invalid literal for int\(\) with base 10:", "expected a whole number, got", message)
    message = re.sub(r"could not convert string to float:", "expected a number, got", message)
    message = message.removeprefix("Error parsing ")
    return message[0].lower() + message[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `drorae` and returns its exit code; whatever ends it early becomes one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    set_telemetry_defaults()
    # A backend of the environment that is not there would keep matplotlib from being imported.
    os.environ["MPLBACKEND"] = "agg"
    redact_logs()
    _fill_closed()
    if debug:
        sys.excepthook = _show_traceback
    with (
        Signals() as signals,
        contextlib.redirect_stdout(cast(TextIO, _Stdout(sys.stdout))),
        notices_to(_say_notice),
    ):
        try:
            code = parse([text for text in given if text != "--debug"]).run()
            sys.stdout.flush()
            return code
        except (KeyboardInterrupt, SystemExit) as error:
            end = signals.meant(error)
            if isinstance(end, Interrupted | Stopped):
                if debug:
                    raise
                return _end(end)
            return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 0
        except BrokenPipeError:
            # Whoever read the output has gone, as `head` does: nothing is left to say, and nobody to say it to.
            for stream in (sys.stdout, sys.stderr):
                _write_nowhere(stream)
            return 128 + signal.SIGPIPE
        except Exception as error:
            if debug:
                raise
            text, code = _explain(error)
            _say(text)
            return code


def _end(error: Interrupted | Stopped) -> int:
    """Says what a signal ended, unless a sweep has; returns the shell's exit code for it."""
    if not error.said:
        _say(f"{WORDS[error.signum]} before it was done")
    # A terminal that was closed takes nothing, and Python would complain of it when it ends.
    if error.signum == signal.SIGHUP:
        for stream in (sys.stdout, sys.stderr):
            _write_nowhere(stream)
    return 128 + error.signum


def _explain(error: Exception) -> tuple[str, int]:
    """Returns an error's line and exit code."""
    if isinstance(error, _StdoutError):
        return f"error: stdout cannot be written ({error}); send the output to another place, and run again", 2
    if isinstance(error, UserError | RemoteError):
        return f"error: {one_line(error)}", 2
    if isinstance(error, ClusterLostError):
        return f"error: {one_line(error)}", 1
    if isinstance(error, ModuleNotFoundError):
        extra = next((extra for extra, packages in EXTRAS.items() if error.name in packages), None)
        wanted = shlex.quote(f"drorae[{extra}]") if extra else error.name
        install = f"{shlex.quote(sys.executable)} -m pip install {wanted}"
        return (f"error: the package {error.name} is not installed; `make setup` installs everything, or: {install}"), 2
    if disk_is_full(error):
        file = getattr(error, "filename", None)
        return f"error: {full_disk(Path(file).parent if file else Path.cwd())}", 2
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename:
        remedy = "let this user write there, or copy it to a folder that can be written to"
        return f"error: {error.filename}: {error.strerror}; {remedy}", 2
    what = f"{type(error).__name__}: {brief(error, 300)}"
    return f"internal error: {what} (rerun with --debug for the traceback)", 1


class _StdoutError(Exception):
    """Stdout was not written; the message says why."""


class _Stdout:
    """Stdout, whose errors say that they are its own: they name no file, as those of others without a name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._named():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            _write_nowhere(self._stream)
            raise _StdoutError(error.strerror or one_line(error)) from error


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(redact(text), file=sys.stderr, flush=True)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints what Python does of an exception that nobody caught, without credentials."""
    _say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def _fill_closed() -> None:
    """Lets stdout and stderr lead nowhere where they are closed (`>&-`): Python has no stream there then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _write_nowhere(stream: TextIO) -> None:
    """Lets a stream's descriptor lead nowhere, so that what it still holds does no harm at the end of the process."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

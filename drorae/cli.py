"""The `drorae` command.

Results go to stdout; progress, notes and errors to stderr. Exit codes: 0 done, 1 something failed, 2 bad input,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Union

import tyro

from drorae.commands.compare import Compare
from drorae.commands.doctor import Doctor
from drorae.commands.export import Export
from drorae.commands.fit import Fit, Report
from drorae.commands.inspect import Inspect
from drorae.commands.plan import Plan
from drorae.commands.predict import Predict
from drorae.commands.probe import Probe
from drorae.commands.status import Resume, Status
from drorae.commands.sweep import Sweep
from drorae.commands.train import Eval, Train
from drorae.commands.ui import Ui
from drorae.doctor import set_telemetry_defaults
from drorae.errors import UserError
from drorae.errors import one_line as error_line
from drorae.files import disk_is_full, full_disk
from drorae.remote import RemoteError

DESCRIPTION = """Scaling-law experiments on visual tokenizers: sweep a capacity axis, track every run, fit the law.

Start with: drorae doctor, then drorae sweep --preset smoke. --debug, anywhere, shows tracebacks."""

COMMANDS = {
    "train": Train,
    "eval": Eval,
    "inspect": Inspect,
    "probe": Probe,
    "export": Export,
    "sweep": Sweep,
    "status": Status,
    "resume": Resume,
    "fit": Fit,
    "predict": Predict,
    "plan": Plan,
    "compare": Compare,
    "report": Report,
    "ui": Ui,
    "doctor": Doctor,
}
# What tyro reads the subcommands from, at run time.
_ANY_COMMAND: Any = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007


class Command(Protocol):
    """A parsed command, ready to run."""

    def run(self) -> int:
        """Does the work and returns the exit code."""


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments name.

    Raises:
        UserError: arguments that no command takes.
        SystemExit: help was asked for and printed.
    """
    box = io.StringIO()
    columns = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        # Wide, so that no line of the box that an error comes in is broken.
        os.environ["COLUMNS"] = "1000"
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                _ANY_COMMAND,
                prog="drorae",
                description=DESCRIPTION,
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        names = [name for name in arguments[:1] if name in COMMANDS]
        raise UserError(f"{one_line(box.getvalue())}; see {' '.join(['drorae', *names, '--help'])}") from None
    finally:
        if columns is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = columns


def one_line(box: str) -> str:
    """What tyro's error box says: the message, then hints such as the subcommands there are.

    tyro draws a box whose frame holds the title, or, where stdout takes ASCII only, a title above dashes.
    """
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip().strip("│").strip()
        if text.startswith(("╭", "╰")):
            continue
        if text and set(text) <= {"─", "-"}:
            sections.append([])
        elif text:
            sections[-1].append(text)
    if "╭" not in box:
        del sections[0]
    kept = []
    for section in sections:
        first, *rest = section or [""]
        if first.startswith("Missing from"):
            wanted = [text for text in rest if not text.endswith(("(required)", "(repeatable)"))]
            kept.append(f"{first} {', '.join(wanted)}")
        elif first.startswith("Perhaps you meant"):
            kept.append("perhaps you meant " + " or ".join(text.split()[0] for text in rest if text.startswith("--")))
        elif first and not first.startswith(("Argument helptext", "For full helptext")):
            kept.append(" ".join(section))
    message = "; ".join(text.rstrip(".") for text in kept) or "the arguments do not fit"
    message = re.sub(r"invalid literal for int\(\) with base 10:", "expected a whole number, got", message)
    message = re.sub(r"could not convert string to float:", "expected a number, got", message)
    message = message.removeprefix("Error parsing ")
    return message[0].lower() + message[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `drorae` and returns its exit code; errors become one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    set_telemetry_defaults()
    try:
        return parse([text for text in given if text != "--debug"]).run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (UserError, RemoteError) as error:
        if debug:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if debug:
            raise
        print(
            f"error: the package {error.name} is not installed; `make setup` installs everything, "
            f"or: {sys.executable} -m pip install {error.name}",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        if debug:
            raise
        if disk_is_full(error):
            file = getattr(error, "filename", None)
            print(f"error: {full_disk(Path(file).parent if file else Path.cwd())}", file=sys.stderr)
            return 2
        print(
            f"internal error: {type(error).__name__}: {error_line(error)[:300]} (rerun with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""Commands that a person can copy into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from drorae.redaction import redact


def program() -> str:
    """Returns how this process was called, for commands to copy: `drorae` where the shell finds it, else the path."""
    called = Path(sys.argv[0])
    if called.name != "drorae" or shutil.which("drorae") == str(called):
        return "drorae"
    return shlex.quote(sys.argv[0])


def command(*words: object) -> str:
    """Returns a `drorae` command with each word quoted for the shell where it needs to be; credentials are hidden."""
    return f"{program()} {_joined(words)}"


def portable_command(*words: object) -> str:
    """Returns a command for a report, which others read: without this machine's path of the program."""
    return f"drorae {_joined(words)}"


def _joined(words: Iterable[object]) -> str:
    return shlex.join(redact(str(word)) for word in words)

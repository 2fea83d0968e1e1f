"""Commands that a person can copy into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """Returns how this process was called, for commands to copy: `drorae` where the shell finds it, else the path."""
    called = Path(sys.argv[0])
    if called.name != "drorae" or shutil.which("drorae") == str(called):
        return "drorae"
    return shlex.quote(sys.argv[0])


def command(*words: object) -> str:
    """Returns a `drorae` command with each word quoted for the shell where it needs to be."""
    return f"{program()} {shlex.join(map(str, words))}"


def portable_command(*words: object) -> str:
    """Returns a command for a report, which others read: without this machine's path of the program."""
    return f"drorae {shlex.join(map(str, words))}"

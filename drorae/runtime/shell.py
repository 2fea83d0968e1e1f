"""Commands that a person can copy into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """How this process was called, for commands to copy: `drorae` where the shell finds it, else the path to it."""
    called = Path(sys.argv[0])
    if called.name != "drorae" or shutil.which("drorae") == str(called):
        return "drorae"
    return shlex.quote(sys.argv[0])


def command(*words: object) -> str:
    """A `drorae` command with each word quoted for the shell where it needs to be."""
    return " ".join([program(), *(shlex.quote(str(word)) for word in words)])

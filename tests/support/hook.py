"""A command for `--notify` that writes down what it is told."""

from __future__ import annotations

import sys
from pathlib import Path

_WRITE = """
import os, sys
print(os.environ["DRORAE_EVENT"], os.environ["DRORAE_MESSAGE"], file=open(sys.argv[1], "a"))
"""


def hook(file: Path, *more: str) -> list[str]:
    """Returns the words of a command that appends `EVENT MESSAGE` to a file, whatever more it is given."""
    return [sys.executable, "-c", _WRITE, str(file), *more]

"""The commit of the source that runs: of its own git checkout, or as whoever sent the code says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

VARIABLE = "DRORAE_COMMIT"
"""Environment variable with the commit of code that was copied without its checkout: to a cluster, into an image."""
UNKNOWN = "unknown"


def git_commit() -> str:
    """Commit of the source tree drorae runs from, with `-dirty` where it was changed.

    Outside git it is what the environment variable `DRORAE_COMMIT` says, else `unknown`.
    """
    return _own_commit() or os.environ.get(VARIABLE, "") or UNKNOWN


def _own_commit() -> str:
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", here.name):
            return ""
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""

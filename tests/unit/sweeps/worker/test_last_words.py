"""What a process that dies leaves in a trial's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.worker.last_words import last_words, take_last_words

DYING = """
import ctypes, os, sys
from pathlib import Path
from sweeps.worker.last_words import last_words
with last_words(Path(sys.argv[1])):
    {}
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("ctypes.string_at(0)", "the worker process died: Segmentation fault"),
        ("os.abort()", "the worker process died: Aborted"),
        ("os._exit(3)", "the worker process died: os._exit(3) was called"),
        ("os.kill(os.getpid(), 9)", ""),
        ("pass", ""),
    ],
)
def test_a_process_that_dies_says_of_what_unless_it_is_killed(end: str, said: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DYING.format(end), str(tmp_path)], capture_output=True, check=False)
    assert take_last_words(tmp_path) == said
    assert list(tmp_path.iterdir()) == [], "it is said once"


def test_a_folder_that_takes_no_file_costs_nothing(tmp_path: Path) -> None:
    with last_words(tmp_path / "nowhere"):
        assert take_last_words(tmp_path / "nowhere") == ""

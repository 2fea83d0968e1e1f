"""Which commit the code that runs is of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import drorae
from drorae.runtime.commit import VARIABLE, git_commit

HERE = Path(drorae.__file__).parent


def test_the_commit_is_that_of_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = subprocess.run(["git", "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True)
    tracked = subprocess.run(["git", "-C", str(HERE), "ls-files", "__init__.py"], capture_output=True, text=True).stdout
    expected = asked.stdout.strip() if asked.returncode == 0 and tracked.strip() else "said"
    monkeypatch.setenv(VARIABLE, "said")
    assert git_commit() in (expected, f"{expected}-dirty")


def test_where_there_is_no_git_the_sender_says_it_or_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert git_commit() == "unknown"
    monkeypatch.setenv(VARIABLE, "abc-dirty")
    assert git_commit() == "abc-dirty"


def test_a_copy_of_the_code_on_another_machine_has_the_commit_that_was_sent_along(tmp_path: Path) -> None:
    """As Ray unpacks it on a node."""
    shutil.copytree(HERE, tmp_path / "drorae", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from drorae.runtime.commit import git_commit; print(git_commit())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), VARIABLE: "abc"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "abc\n"

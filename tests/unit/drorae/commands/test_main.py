"""The command ends quietly where nobody reads its output, and says so where that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import PAPER

WORDS = {
    "text": ["fit", PAPER, "--y", "rfid"],
    "json": ["fit", PAPER, "--y", "rfid", "--json"],
    "table": ["sweep", "--preset", "capacity", "--dry-run"],
    "help": ["sweep", "--help"],
}


def _run(words: list[str], folder: Path, **streams: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drorae", *words]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(command, cwd=folder, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kind", WORDS)
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, kind: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = _run(WORDS[kind], tmp_path, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_nor_is_one_of_both_streams(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = _run(["fit", "nowhere.csv", "--y", "rfid"], tmp_path, stdout=writer, stderr=writer)
    assert ended.returncode in (2, 141)
    assert _run(WORDS["text"], tmp_path, stdout=writer, stderr=writer).returncode == 141
    os.close(writer)


@pytest.mark.parametrize("kind", WORDS)
def test_an_output_on_a_full_disk_is_named(tmp_path: Path, kind: str) -> None:
    with open("/dev/full", "w") as full:
        ended = _run(WORDS[kind], tmp_path, stdout=full.fileno())
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: stdout cannot be written (No space left on device)")
    assert str(tmp_path) not in ended.stderr

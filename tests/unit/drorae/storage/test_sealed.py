"""Sealed files: damage is what their bytes prove; a disk or a memory that fails is not."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from disk_failures import FAILURES

from drorae.errors import Notice, UserError
from drorae.storage import sealed
from drorae.storage.sealed import is_sound, read_sealed, seal_path, write_sealed

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("error", FAILURES, ids=str)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "of an older version"])
def test_what_keeps_a_sound_file_from_being_read_is_raised(tmp_path: Path, error: Exception, seal: bool) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1 2"))
    if not seal:
        seal_path(path).unlink()

    def refuse(file: Path) -> None:
        raise error

    with pytest.raises((type(error), UserError), match=getattr(error, "strerror", None) or str(error)):
        read_sealed(path, refuse)
    assert read_sealed(path, Path.read_text) == "1 2"


def test_a_file_that_may_not_be_opened_names_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1 2"))

    def refuse(file: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    monkeypatch.setattr(sealed, "file_sha256", refuse)
    with pytest.raises(UserError, match=r"numbers.txt: cannot be read \(Too many open files\); .*ulimit -n"):
        read_sealed(path, Path.read_text)
    assert path.exists() and seal_path(path).exists()


def test_a_kill_while_a_file_is_replaced_leaves_the_older_one_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers.txt"
    write_sealed(path, lambda temporary: temporary.write_text("1"))
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_sealed(path, lambda temporary: temporary.write_text("2"))
    assert read_sealed(path, Path.read_text) == "1"
    write_sealed(path, lambda temporary: temporary.write_text("3"))
    assert read_sealed(path, Path.read_text) == "3" and len(seal_path(path).read_text().splitlines()) == 1
    path.write_text("1")
    assert not is_sound(path)


def test_a_seal_is_what_sha256sum_reads_and_its_absence_an_older_version(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_sealed(path, lambda temporary: temporary.write_text("[1]"))
    digest, name = seal_path(path).read_text().split()
    assert len(digest) == 64 and name == "numbers.json"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["numbers.json", "numbers.json.sha256"]

    def numbers(file: Path) -> list[int]:
        return json.loads(file.read_text())

    assert read_sealed(path, numbers) == [1] and is_sound(path)
    path.write_text("[2]")
    with pytest.warns(Notice, match="numbers.json.damaged"):
        assert read_sealed(path, numbers) is None
    assert read_sealed(path, numbers) is None and not seal_path(path).exists()
    path.write_text("[3]")
    assert read_sealed(path, numbers) == [3]
    path.write_text("[3")
    with pytest.warns(Notice, match="unreadable"):
        assert read_sealed(path, numbers) is None

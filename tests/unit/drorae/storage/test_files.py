"""Files: whole or not at all, and what a full disk or a locked file says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.storage.files import (
    disk_is_full,
    file_name,
    file_sha256,
    folder_bytes,
    has_room,
    json_rows,
    naming_full_disk,
    naming_unreadable,
    packaged_path,
    replacing,
    write_atomic,
    write_json,
)


def test_only_a_full_disk_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full"), naming_full_disk(tmp_path):
        (tmp_path / "full").write_bytes(b"x")
    with pytest.raises(ValueError, match="other"), naming_full_disk(tmp_path):
        raise ValueError("other")


def test_an_error_that_stands_behind_itself_is_no_full_disk() -> None:
    carried, carrier = ValueError("the head node is gone"), RuntimeError("a carrier")
    carried.__context__, carrier.__cause__ = carrier, carried
    assert not disk_is_full(carried)
    assert disk_is_full(OSError(errno.ENOSPC, "No space left on device"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers.json"
    write_json(path, {"a": [1, 2]})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        assert temporary.suffix == path.suffix and temporary.parent == path.parent
        temporary.write_text("hal")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert write_atomic(path, b"3").read_bytes() == b"3"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_and_then_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(descriptor)

    def named(source: Path, target: Path) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", named)
    write_atomic(tmp_path / "result.json", b"12345")
    assert done == ["5 bytes", "name", "folder"]

    def cannot(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    assert write_atomic(tmp_path / "result.json", b"6").read_bytes() == b"6"


def test_rows_that_were_cut_short_are_left_out() -> None:
    assert json_rows(b'{"a": 1}\n[2]\n\n{"a": 3}\n{"a": 4') == [{"a": 1}, {"a": 3}]


def test_what_a_user_can_put_right_about_a_file_is_said(tmp_path: Path) -> None:
    for number, remedy in ((errno.EACCES, "chmod"), (errno.EMFILE, "ulimit")):
        with pytest.raises(UserError, match=f"a.npz: cannot be read .*{remedy}"), naming_unreadable(tmp_path / "a.npz"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="Input/output"), naming_unreadable(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_digest_is_that_of_hashlib_and_sizes_add_up(tmp_path: Path) -> None:
    (tmp_path / "in" / "ner").mkdir(parents=True)
    for name, content in (("a", b"abc"), ("in/b", b"x" * 1000), ("in/ner/c", b"")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert folder_bytes(tmp_path) == 1003


def test_room_is_found_by_writing_and_leaves_nothing(tmp_path: Path) -> None:
    assert has_room(tmp_path, 1000) and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        has_room(tmp_path / "none", 1000)


def test_a_file_of_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explosive").mkdir()
    (tmp_path / "explosive" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "explosive" / "data.bin").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_path("explosive", "data.bin") == tmp_path / "explosive" / "data.bin"
    assert packaged_path("explosive", "other.bin") is None
    assert packaged_path("no_such_package", "data.bin") is None


HOSTILE = [
    "val/loss", "val:loss", "val-loss", "val\\loss", "../../etc/passwd", "..", ".", ".hidden", "hidden", "-rf", "rf",
    "", " ", "a b", "a\0b", "a\nb", "x" * 300, "x" * 300 + "y", "\u6f22" * 120, "\u6f22\u5b57", "\U0001f600", "a.", "a",
    "loss?", "loss*", "loss|", 'loss"', "\ud800",
]  # fmt: skip


def test_any_text_has_a_file_name_of_its_own(tmp_path: Path) -> None:
    names = [file_name(text) for text in HOSTILE]
    for name in names:
        (tmp_path / f"prediction-{name}-1e+08-12345678.json").touch(exist_ok=False)
        (tmp_path / name).mkdir()
        assert (tmp_path / name).resolve().parent == tmp_path.resolve() and not name.startswith((".", "-"))
    assert len(set(names)) == len(HOSTILE)
    assert file_name("rfd_dinov2") == "rfd_dinov2" and file_name("\u6f22\u5b57") == "\u6f22\u5b57"
    assert file_name("val/loss").startswith("val-loss-")

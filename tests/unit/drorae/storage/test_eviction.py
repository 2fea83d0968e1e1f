"""An entry that somebody has open, on a disk of whatever kind, is never removed."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from unwritable import public_folder, unwritable

from drorae.storage.eviction import IN_USE, candidates, hold


def entry(root: Path, name: str = "abc") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"key": {"kind": "layers"}, "count": 5}))
    return folder


def test_an_entry_is_held_as_long_as_whoever_opened_it_lives(tmp_path: Path) -> None:
    folder = entry(tmp_path)
    (free,) = candidates(tmp_path, "manifest.json")
    assert str(free).startswith("abc (layers of 5 items, 0.00 GB, last used 20")
    first, second = hold(folder), hold(folder)
    assert first is not None and second is not None
    del first
    assert candidates(tmp_path, "manifest.json") == [] and not free.remove()
    del second
    assert free.remove() and list(tmp_path.iterdir()) == []
    assert hold(folder) is None and not free.remove()


def test_what_is_half_made_or_set_aside_is_no_candidate(tmp_path: Path) -> None:
    for name in ("a.partial", "b.corrupt", "c.evicted"):
        entry(tmp_path, name)
    (tmp_path / "d").mkdir()
    (entry(tmp_path, "e") / "manifest.json").write_text("[1")
    assert candidates(tmp_path, "manifest.json") == []


def test_an_entry_that_was_made_anew_meanwhile_is_not_held_by_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, flock = entry(tmp_path), fcntl.flock

    def late(descriptor: int, how: int) -> None:
        monkeypatch.undo()
        os.replace(folder, tmp_path / "gone")
        (entry(tmp_path) / IN_USE).touch()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert hold(folder) is None and hold(folder) is not None


def test_on_a_disk_without_locks_everything_counts_as_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = entry(tmp_path)

    def none(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert hold(folder) is not None and candidates(tmp_path, "manifest.json") == []


def test_another_users_entry_is_read_and_stays() -> None:
    with public_folder() as root:
        folder = entry(root)
        with unwritable(root):
            held = hold(folder)
            assert held is not None and candidates(root, "manifest.json") == []
        del held

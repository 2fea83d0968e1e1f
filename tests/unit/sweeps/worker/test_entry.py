"""What Ray runs in a worker's process: a preparation, and the wait for room on the disk."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from drorae.config import PRESETS, Runtime, canonical_json, override
from drorae.errors import DiskFullError
from sweeps.worker import entry


def rows(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def test_a_preparation_leaves_its_rows_and_says_nothing(tmp_path: Path) -> None:
    runtime, log = Runtime(cache_dir=str(tmp_path / "cache")), tmp_path / "log.jsonl"
    log.write_text('{"phase": "pre')  # another attempt was killed here
    assert entry.prepare(canonical_json(PRESETS["smoke"]), runtime, str(log), "fake_trial:prepare", {}) is None
    whole = [json.loads(line)["phase"] for line in log.read_text().splitlines() if line.endswith("}")]
    assert whole == ["prepare", "phase1"]


def test_what_the_user_has_to_mend_is_returned_in_one_line(tmp_path: Path) -> None:
    config = override(PRESETS["smoke"], "images.path", "nowhere")
    runtime, log = Runtime(cache_dir=str(tmp_path / "cache")), tmp_path / "log.jsonl"
    found = entry.prepare(canonical_json(config), runtime, str(log), "fake_trial:prepare", {})
    assert found == {"reason": "nowhere: no such folder", "user": True}
    assert [row["phase"] for row in rows(log)] == ["prepare", "phase1"], "what it said before is kept"


def test_a_bug_is_no_mistake_of_the_users(tmp_path: Path) -> None:
    config = canonical_json(PRESETS["smoke"])
    with pytest.raises(AttributeError, match="nothing"):
        entry.prepare(config, Runtime(), str(tmp_path / "log.jsonl"), "fake_trial:nothing", {})


def test_a_disk_with_room_is_not_waited_for_and_a_full_one_only_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    entry.wait_for_room(tmp_path)
    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(entry, "ROOM_SECONDS", 0.0)
    with pytest.raises(DiskFullError, match="the disk is full"):
        entry.wait_for_room(tmp_path)

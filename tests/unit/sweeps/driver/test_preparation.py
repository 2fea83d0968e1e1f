"""A preparation that Ray tries again: its log has every row once, as the last attempt reported it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from drorae.config import Runtime, TrialConfig, canonical_json
from drorae.errors import UserError
from drorae.storage.remote import Remote
from sweeps.driver.preparation import _PreparationLog
from sweeps.worker import entry

Rows = list[dict[str, float | str]]


def rows(steps: range, attempt: int) -> Rows:
    return [{"phase": "phase1", "step": float(step), "loss": attempt + 1 / step} for step in steps]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_an_attempt_that_follows_a_killed_one_loses_and_doubles_no_row(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    local = tmp_path / "prepare-x.jsonl"
    place: Path | Remote = local if where == "disk" else request.getfixturevalue("store") / "sweep" / local.name
    tail = _PreparationLog(local, "prepare")

    def look() -> Rows:
        if isinstance(place, Remote):
            local.write_bytes(place.read() or b"")
        return [row for row in tail.read() if row["phase"] == "phase1"]

    def attempt(number: int, steps: range) -> None:
        def prepare(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, float | str]], None]) -> None:
            report({"phase": "prepare", "note": "encoding", "done": float(number), "total": 2.0})
            for row in rows(steps, number):
                report(row)
            assert tail.running()
            raise UserError("killed")

        monkeypatch.setitem(sys.modules, "stand_in", SimpleNamespace(prepare=prepare))
        entry.prepare(canonical_json(TrialConfig()), Runtime(), str(place), "stand_in:prepare", {})

    attempt(0, range(1, 7))
    assert look() == rows(range(1, 7), 0)
    with local.open("ab") as file:
        file.write(b'{"phase": "phase1", "st')  # killed while it wrote
    # From the checkpoint of step 3; what the first did after it is done again.
    attempt(1, range(4, 6))
    assert look() == rows(range(1, 4), 0) + rows(range(6, 7), 0) + rows(range(4, 6), 1)
    attempt(2, range(4, 9))
    assert look() == rows(range(1, 4), 0) + rows(range(4, 9), 2)


def test_a_log_that_became_shorter_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    tail = _PreparationLog(log, "prepare")
    assert tail.read() == [] and tail.running()[0].phase == "starting"
    log.write_text('{"phase": "phase1", "step": 1, "loss": 1}\n' * 5)
    assert len(tail.read()) == 1
    log.write_text('{"phase": "phase1", "step": 2, "loss": 1}\n{"phase": "phase1", "st')
    assert [row["step"] for row in tail.read()] == [1, 2]

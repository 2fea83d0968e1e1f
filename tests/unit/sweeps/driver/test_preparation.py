"""A preparation that Ray tries again: its log has every row once, as the last attempt reported it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pickles import reached

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


def test_a_preparation_is_given_nothing_of_the_drivers(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import ray

    from sweeps.driver import preparation
    from sweeps.driver.home import Home
    from sweeps.resources import Share

    sent: list[Any] = []

    class Remote:
        def __init__(self, function: Any) -> None:
            sent.append(function)

        def options(self, **given: Any) -> Remote:
            sent.append(given)
            return self

        def remote(self, *given: Any) -> None:
            sent.append(given)

    monkeypatch.setattr(ray, "remote", Remote)
    monkeypatch.setattr(preparation, "alive_nodes", list)
    share = functools.partial(lambda config: Share(1.0))
    preparation.Preparation(
        session.configs, session.screen, Runtime(), share, "fake_trial:prepare", Home(tmp_path, "smoke"),
        session.screen.close, {},
    ).start()  # fmt: skip
    assert len(sent) == 3 and reached(sent) == []
    assert cloudpickle.loads(cloudpickle.dumps(sent))


def test_a_preparation_whose_worker_dies_is_made_again_three_times_and_the_reason_named(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.exceptions import OutOfMemoryError

    from sweeps.driver import preparation
    from sweeps.driver.deaths import OUT_OF_MEMORY
    from sweeps.driver.home import Home
    from sweeps.resources import Share

    sent: list[object] = []

    def get(job: object) -> None:
        raise OutOfMemoryError("low on memory\nmuch else")

    remote = SimpleNamespace(remote=lambda *given: sent.append(given), options=lambda **given: remote)
    monkeypatch.setattr(ray, "remote", lambda function: remote)
    monkeypatch.setattr(ray, "wait", lambda jobs, timeout: (jobs, []))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(preparation, "alive_nodes", list)
    home = Home(tmp_path, "smoke")
    made = preparation.Preparation(
        session.configs, session.screen, Runtime(), lambda config: Share(1.0), "fake_trial:prepare", home,
        lambda: None, {},
    )  # fmt: skip
    made.start()
    failed, _ = made.finish()
    assert set(failed.values()) == {f"preparation failed: {OUT_OF_MEMORY}"} and len(sent) == 4

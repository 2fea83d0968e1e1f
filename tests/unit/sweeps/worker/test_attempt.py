"""An attempt at a trial: what it leaves where it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from drorae.config import PRESETS, Runtime, config_hash, override
from drorae.errors import UserError
from drorae.training.rows import PASSING
from drorae.trial.folder import ready_trial
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import RunAddress
from sweeps.resources import Share
from sweeps.worker import attempt, heartbeat

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_worker_on_a_full_disk_says_its_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = override(override(PRESETS["smoke"], "encoder.path", "user=8"), "fusion.expert_hidden_dim", 8)
    key = config_hash(trouble)
    ready_trial(tmp_path / key, trouble)
    address = RunAddress(*[""] * len(dataclasses.fields(RunAddress)))
    work = attempt.Work(str(tmp_path), Runtime(), address, "fake_trial:run_trial", False)

    def full(*arguments: Any) -> None:
        raise FULL

    monkeypatch.setattr(attempt, "write_ending", full)
    first = attempt.Attempt(work, key, Share(), Lease(tmp_path / "worker.lease"), 1)
    with pytest.raises(UserError, match="a width"):
        attempt.train(first, Runtime(), lambda row: None, main=False)
    monkeypatch.setattr(attempt, "write_atomic", full)
    broken = dataclasses.replace(work, run_trial="fake_trial:nothing")
    with pytest.raises(AttributeError, match="nothing"):
        attempt.train(dataclasses.replace(first, work=broken), Runtime(), lambda row: None, main=False)
    assert not (tmp_path / key / "failure.json").exists()


def long_trial(
    config: object, report: Callable[[Mapping[str, float | str]], None], *, directory: Path, runtime: Runtime
) -> None:
    """Eight steps, two an epoch; the rows of every third are kept."""
    for step in range(1, 9):
        row: dict[str, float | str] = {"phase": "phase2", "step": float(step), "epoch": step / 2, "loss": float(step)}
        report(row | {"total_steps": 8.0} | ({PASSING: 1.0} if step % 3 and step < 8 else {}))


class Silent(contextlib.AbstractContextManager["Silent", None]):
    """A recorder without a store."""

    heard: ClassVar[list[float]] = []

    def __init__(self, tracker: object) -> None:
        self.heard.clear()

    def __exit__(self, *error: object) -> None:
        pass

    def report(self, row: Mapping[str, Any]) -> None:
        self.heard.append(row["step"])

    def keep(self) -> bool:
        return True


def test_progress_hears_of_every_row_and_the_records_of_those_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed trial reports no others again: its epochs would have other losses."""
    key = config_hash(PRESETS["smoke"])
    ready_trial(tmp_path / key, PRESETS["smoke"])
    shown: list[float] = []
    monkeypatch.setattr(heartbeat.Heartbeat, "report", lambda self, row: shown.append(row["step"]))
    monkeypatch.setattr(attempt, "Recorder", Silent)
    address = RunAddress(*[""] * len(dataclasses.fields(RunAddress)))
    work = attempt.Work(str(tmp_path), Runtime(), address, f"{__name__}:long_trial", True)
    sent: list[dict[str, Any]] = []
    this = attempt.Attempt(work, key, Share(), Lease(tmp_path / "worker.lease"), 1)
    assert attempt.train(this, Runtime(), sent.append)
    assert shown == list(range(1, 9)) and Silent.heard == [3, 6, 8]
    assert sent == [{"epoch": 1, "loss": 3.0}, {"epoch": 3, "loss": 6.0}, {"epoch": 4, "loss": 8.0}]

"""An attempt at a trial: what it leaves where it fails."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest

from drorae.config import PRESETS, Runtime, config_hash, override
from drorae.errors import UserError
from drorae.trial.folder import ready_trial
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import RunAddress
from sweeps.resources import Share
from sweeps.worker import attempt

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

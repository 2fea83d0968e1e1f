"""Rows that wait for a store: kept on a disk that takes them, in memory on one that does not."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from runs import nowhere, only_run, steps

from drorae.config import PRESETS
from sweeps.tracking import spool
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker


@pytest.mark.slow
def test_a_full_disk_and_a_long_absence_cost_no_trial(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    config = replace(PRESETS["smoke"], seed=77)
    away = replace(sweep.address, tracking_uri=nowhere())
    tracker = TrialTracker(away, config, tmp_path, said.append)
    monkeypatch.setattr(spool, "SPOOL_ROWS", 50)

    def full(path: Path, content: bytes, make_folder: bool) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "write_atomic", full)
        for step in range(1, 40):
            tracker.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
        assert not tracker.flush() and not tracker.flush()
    assert sum("No space left" in line for line in said) == 1 and not tracker.spool.path.exists()
    for step in range(40, 90):
        tracker.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
    assert not tracker.flush()
    kept = [json.loads(line)["step"] for line in tracker.spool.path.read_text().splitlines()]
    assert kept[0] == 1 and kept[-1] == 89 and len(kept) <= 50 and any("thinned" in line for line in said)
    # The store is back: a later process sends what waited, each step once.
    later = TrialTracker(sweep.address, config, tmp_path)
    assert later.start() and later.flush() and not later.spool.path.exists()
    assert steps(sweep.client, only_run(sweep.client, sweep.address, config)) == kept

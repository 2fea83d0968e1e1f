"""Recording beside the training: it never waits for the store."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_trial import STEPS, run_trial
from runs import nowhere, only_run, steps

from drorae.config import PRESETS, Runtime
from drorae.diagnostics.picture import write_picture
from drorae.trial.folder import HELD_OUT_PICTURE, SPOOL
from sweeps.folder.lease import LeaseLostError
from sweeps.folder.sweep import RunAddress
from sweeps.tracking import recorder
from sweeps.tracking.client import Store
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker


class Silent(TrialTracker):
    """Of a store that keeps the first call until it is told to answer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked, self.answers, self.over = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> bool:
        self.asked.set()
        self.answers.wait()
        return super().start()

    def keep(self) -> None:
        super().keep()
        self.over.set()


def test_no_slot_waits_for_a_store_that_does_not_answer(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "KEEP_WAIT_SECONDS", 0.05)
    config = replace(PRESETS["smoke"], seed=78)
    silent = Silent(sweep.address, config, tmp_path)
    with recorder.Recorder(silent) as recording:
        assert silent.asked.wait(300)
        # All of this happens while the store holds a call.
        for step in range(1, 21):
            recording.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
        assert not recording.keep()
        monkeypatch.setattr(recorder, "KEEP_WAIT_SECONDS", threading.TIMEOUT_MAX)
        assert not any(recording.keep() for _ in range(10)), "one wait, not one at each of ten epochs' ends"
        run_trial(config, lambda row: None, directory=tmp_path, runtime=Runtime())
    assert not silent.answers.is_set()
    silent.answers.set()
    # What was handed over is not sent from here any more, and is left to the driver.
    assert silent.over.wait(300)
    deadline = time.monotonic() + 300
    while not (tmp_path / SPOOL).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sweep.record(config, tmp_path, lambda line: None)
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, 21))
    assert not (tmp_path / SPOOL).exists()


def test_a_store_that_answers_late_brings_back_no_folder_that_is_gone(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker's copy of a trial's folder is, whose sweep lives in a store."""
    monkeypatch.setattr(recorder, "KEEP_WAIT_SECONDS", 0.05)
    folder, said = tmp_path / "trial", list[str]()
    folder.mkdir()
    silent = Silent(sweep.address, PRESETS["smoke"], folder, said.append)
    with recorder.Recorder(silent) as recording:
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        write_picture(folder / HELD_OUT_PICTURE.format("phase2"), *np.zeros((2, 8, 8, 8, 3), np.uint8), 1)
        recording.report({"phase": "phase2", "step": 1.0, "held_out.psnr": 20.0, "held_out.images": 8.0})
    shutil.rmtree(folder)
    silent.answers.set()
    assert silent.over.wait(300) and not folder.exists() and said == []


def test_a_slow_store_costs_a_trial_nothing(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds a request, some twenty requests a trial."""
    config = replace(PRESETS["smoke"], seed=77)
    said: list[str] = []
    with monkeypatch.context() as slow:

        def late(self: Store) -> object:
            time.sleep(2)
            return self._client

        slow.setattr(Store, "client", property(late))
        with recorder.Recorder(TrialTracker(sweep.address, config, tmp_path, said.append)) as recording:
            run_trial(config, recording.report, directory=tmp_path, runtime=Runtime())
            for _ in range(10):
                recording.keep()
    assert said == []
    assert sweep.record(config, tmp_path, said.append) and said == []
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, STEPS + 1))


def test_a_recorded_trial_is_whole_and_a_broken_one_keeps_its_rows(sweep: SweepTracker, tmp_path: Path) -> None:
    config, broken = replace(PRESETS["smoke"], seed=79), replace(PRESETS["smoke"], seed=80)
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    with recorder.Recorder(TrialTracker(sweep.address, config, tmp_path / "good")) as recording:
        run_trial(config, recording.report, directory=tmp_path / "good", runtime=Runtime())
    assert sweep.record(config, tmp_path / "good", lambda line: None)
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, STEPS + 1))
    with (
        pytest.raises(RuntimeError, match="in training"),
        recorder.Recorder(TrialTracker(sweep.address, broken, tmp_path / "bad")) as recording,
    ):
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        raise RuntimeError("in training")
    # The next attempt sends them.
    again = TrialTracker(sweep.address, broken, tmp_path / "bad")
    assert list(again.spool.rows) == [1] and again.flush()
    assert steps(sweep.client, only_run(sweep.client, sweep.address, broken)) == [1]


def test_what_another_worker_took_over_keeps_its_spool(tmp_path: Path) -> None:
    away = RunAddress(nowhere(), "1", "parent")
    with (
        pytest.raises(LeaseLostError),
        recorder.Recorder(TrialTracker(away, PRESETS["smoke"], tmp_path)) as recording,
    ):
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        raise LeaseLostError("another's")
    assert not (tmp_path / SPOOL).exists()


def test_a_database_that_is_away_fails_no_trial(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    away = RunAddress(f"sqlite:///{tmp_path}/file/mlflow.db", "1", "parent")
    with recorder.Recorder(TrialTracker(away, PRESETS["smoke"], tmp_path, said.append)) as recording:
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        deadline = time.monotonic() + 300
        while not said and time.monotonic() < deadline:
            time.sleep(0.02)
    assert len(said) == 1 and "does not answer" in said[0] and (tmp_path / "spool.jsonl").exists()

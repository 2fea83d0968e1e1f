"""Recording beside the training: it never waits for the store."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fake_trial import STEPS, run_trial
from runs import only_run, steps

from drorae.config import PRESETS, Runtime
from sweeps.tracking import recorder
from sweeps.tracking.client import RunAddress
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker


def test_training_never_waits_for_a_store_that_does_not_answer(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers, over = threading.Event(), threading.Event(), threading.Event()

    class Silent(TrialTracker):
        def start(self) -> bool:
            asked.set()
            answers.wait()
            return super().start()

        def finish(self) -> bool:
            complete = super().finish()
            over.set()
            return complete

    monkeypatch.setattr(recorder, "FLUSH_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "FINISH_WAIT_SECONDS", 0.05)
    config = replace(PRESETS["smoke"], seed=78)
    with recorder.Recorder(Silent(sweep.address, config, tmp_path)) as recording:
        assert asked.wait(60)
        # All of this happens while the store holds a call.
        for step in range(1, 21):
            recording.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
        assert not recording.flush() and not recording.flush()
        run_trial(config, lambda row: None, directory=tmp_path, runtime=Runtime())
        assert not recording.finish()
        assert not answers.is_set()
    answers.set()
    # What was asked for meanwhile is done in its order when the store answers.
    assert over.wait(60)
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, 21))


def test_a_recorded_trial_is_whole_and_a_broken_one_keeps_its_rows(sweep: SweepTracker, tmp_path: Path) -> None:
    config, broken = replace(PRESETS["smoke"], seed=79), replace(PRESETS["smoke"], seed=80)
    (tmp_path / "good").mkdir()
    with recorder.Recorder(TrialTracker(sweep.address, config, tmp_path / "good")) as recording:
        run_trial(config, recording.report, directory=tmp_path / "good", runtime=Runtime())
        assert recording.finish()
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, STEPS + 1))
    with (
        pytest.raises(RuntimeError, match="in training"),
        recorder.Recorder(TrialTracker(sweep.address, broken, tmp_path / "bad")) as recording,
    ):
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        raise RuntimeError("in training")
    assert steps(sweep.client, only_run(sweep.client, sweep.address, broken)) == [1]
    assert not (tmp_path / "bad" / "spool.jsonl").exists()


def test_a_database_that_is_away_fails_no_trial(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    away = RunAddress(f"sqlite:///{tmp_path}/file/mlflow.db", "1", "parent")
    with recorder.Recorder(TrialTracker(away, PRESETS["smoke"], tmp_path, said.append)) as recording:
        recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        assert recording.finish()
    assert len(said) == 1 and "does not answer" in said[0] and (tmp_path / "spool.jsonl").exists()

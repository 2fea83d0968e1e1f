"""A worker's sign of life: what progress.json says while a trial trains, and after."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.folder.lease import Lease, LeaseLostError
from sweeps.folder.progress import RunningTrial, read_cost, read_progress, read_reached
from sweeps.resources import Share
from sweeps.worker import heartbeat as worker_heartbeat
from sweeps.worker.heartbeat import heartbeat


def test_what_a_worker_says_of_the_trial_it_is_at(tmp_path: Path) -> None:
    def said() -> RunningTrial:
        return RunningTrial.from_progress("capacity=4", read_progress(tmp_path))

    with heartbeat(tmp_path, Share(), Lease(tmp_path / "lease")) as heart:
        assert said().phase == "starting" and "trained_seconds" not in read_progress(tmp_path)
        heart.report({"phase": "prepare", "note": "encoding", "done": 3.0, "total": 10.0})
        heart.write(running=True)
        assert said().note == "encoding 3 of 10" and said().loss is None and said().total_steps == 0
        row = {"phase": "phase2", "step": 5.0, "total_steps": 10.0, "loss": 0.25, "images_per_second": 99.5, "lr": 1.0}
        heart.report(row)
        heart.write(running=True)
        now = said()
        assert (now.step, now.total_steps, now.loss, now.images_per_second, now.note) == (5, 10, 0.25, 99.5, "")
        assert now.memory_bytes and 1e6 < now.memory_bytes < 1e12
        trained = read_progress(tmp_path)["trained_seconds"]
        # What is measured beside the steps leaves them as they are.
        heart.report({"phase": "phase2", "step": 6.0, "held_out.psnr": 21.5, "held_out.images": 9.0})
        heart.write(running=True)
        assert said() == replace(now, held_out_psnr=21.5, memory_bytes=said().memory_bytes)
        # How long the training took is known while the trial is evaluated.
        heart.report({"phase": "evaluate", "note": "measuring", "done": 0.0, "total": 1.0})
        heart.write(running=True)
        assert said().note == "measuring" and read_progress(tmp_path)["trained_seconds"] == trained


def test_beats_go_on_while_nothing_is_reported_and_costs_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_heartbeat, "BEAT_SECONDS", 0.02)
    lease = Lease(tmp_path / "worker.lease")
    with heartbeat(tmp_path, Share(cpus=2), lease):
        first = read_progress(tmp_path)
        deadline = time.monotonic() + 300
        while read_progress(tmp_path)["updated"] == first["updated"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_progress(tmp_path)["updated"] > first["updated"] and first["running"]
    ended = read_progress(tmp_path)
    assert not ended["running"] and ended["cpu_hours"] == pytest.approx(2 * ended["seconds"] / 3600)
    with heartbeat(tmp_path, Share(cpus=2), lease):
        assert read_cost(tmp_path).seconds >= ended["seconds"]


def test_nothing_is_written_once_the_trial_is_another_s(tmp_path: Path) -> None:
    with Lease(tmp_path / "worker.lease") as lease:
        lease.acquire()
        with heartbeat(tmp_path, Share(), lease):
            (tmp_path / "worker.lease").unlink()
            (tmp_path / "progress.json").unlink()
            with pytest.raises(LeaseLostError):
                lease.check(now=True)
    assert not list(tmp_path.iterdir())


def test_how_far_a_trial_got_is_there_to_the_very_step_and_never_goes_back(tmp_path: Path) -> None:
    for steps in (range(1, 6), range(3, 5)):
        heart = worker_heartbeat.Heartbeat(tmp_path, Share(), Lease(tmp_path / "lease"))
        heart.report({"phase": "prepare", "note": "encoding", "done": 3.0, "total": 10.0})
        for step in steps:
            heart.report({"phase": "phase2", "step": float(step), "loss": 1.0})
            assert read_reached(tmp_path) == {"prepare": 3.0, "phase2": max(float(step), 5.0 * (steps.start == 3))}
    (tmp_path / "reached.json").write_text("{")
    assert read_reached(tmp_path) == {}

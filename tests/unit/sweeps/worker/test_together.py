"""Trials of several processes in a sweep: Ray Train starts them, and they learn what one process learns."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joint_trial
import psutil
import pytest
from ray import cluster_resources, get, remote
from tiny import tiny_config, tiny_images

from drorae.config import PRESETS, EvaluationConfig, Runtime, canonical_json, config_hash
from drorae.trial.run import run_trial
from sweeps.driver.run import SweepOutcome, run_sweep
from sweeps.folder.lease import read_lease
from sweeps.folder.progress import read_progress
from sweeps.resources import Resources, Rule, Share
from sweeps.settings import Asha
from sweeps.spec import Axis, SweepSpec, expand
from sweeps.worker import entry
from sweeps.worker.together import run_together

pytestmark = pytest.mark.slow
SECONDS = 300.0
"""Enough for a machine with much else to do."""


def losses(trial: Path) -> list[float]:
    rows = [json.loads(line) for line in (trial / "history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_sweep_trains_large_trials_in_two_processes_and_small_ones_in_one(
    new_store: Callable[[Path], str], tmp_path: Path, ray: None
) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"), evaluation=EvaluationConfig(extractors=()))
    runtime = Runtime(device="cpu", cache_dir=str(tmp_path / "other"), log_steps=1)
    spec = SweepSpec("mixed", config, (Axis("capacity", (8, 16)),))
    alone = {config_hash(trial): tmp_path / f"alone-{trial.fusion.expert_hidden_dim}" for trial in expand(spec)}
    for trial in expand(spec):
        run_trial(trial, directory=alone[config_hash(trial)], runtime=runtime)
    outcome = run_sweep(
        spec,
        root=tmp_path / "runs",
        runtime=dataclasses.replace(runtime, cache_dir=str(tmp_path / "cache")),
        resources=Resources(rules=(Rule(Axis("capacity", (16,)), cpus=2, processes=2),)),
        asha=Asha(grace_epochs=100),
        prepare="joint_trial:prepare_noted",
        tracking_uri=new_store(tmp_path),
        quiet=True,
    )
    assert sorted((tmp_path / "prepared.log").read_text().splitlines()) == ["0 of 2", "1 of 2"]
    assert not list(outcome.directory.glob("*.ray"))
    assert outcome.counts == {"finished": 2}
    trials = sorted((outcome.directory / "trials").iterdir())
    assert len(trials) == 2
    for directory in trials:
        assert not (directory / "ray").exists()
        assert losses(directory) == pytest.approx(losses(alone[directory.name]), rel=1e-5)


def test_what_a_process_of_a_preparation_finds_to_mend_is_said(tmp_path: Path, ray: None) -> None:
    log = tmp_path / "prepare-x.jsonl"
    trial, share = canonical_json(PRESETS["smoke"]), Share(2.0, 0.0, 2)
    found = entry.prepare(trial, Runtime(cache_dir=str(tmp_path)), str(log), "joint_trial:refuse", {}, share)
    assert found == {"reason": "images: there are none", "user": True}
    assert log.read_text().split("\n").count('{"phase": "prepare", "note": "begun"}') == 1, "of the main process alone"
    assert not log.with_suffix(".ray").exists()
    killed = canonical_json(dataclasses.replace(PRESETS["smoke"], label="killed"))
    found = entry.prepare(killed, Runtime(cache_dir=str(tmp_path)), str(log), "joint_trial:refuse", {}, share)
    assert found is not None and found["again"] and not found["user"]


def test_processes_that_lose_one_as_they_begin_give_back_what_they_hold(tmp_path: Path, ray: None) -> None:
    from ray.train.v2.api.exceptions import TrainingFailedError

    fatal = joint_trial.Fatal()
    everything = remote(num_cpus=cluster_resources()["CPU"])(lambda: "done")

    def process() -> None:
        fatal()

    with pytest.raises(TrainingFailedError, match="died unexpectedly"):
        run_together(process, Share(2.0, 0.0, 2), "lost", tmp_path)
    assert get(everything.remote(), timeout=SECONDS) == "done"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.1)


def test_all_processes_of_a_trial_that_was_taken_over_stop_and_another_worker_goes_on(
    new_store: Callable[[Path], str], tmp_path: Path, ray: None
) -> None:
    done: list[SweepOutcome] = []
    spec = SweepSpec("joint", PRESETS["smoke"], (Axis("capacity", (4,)),))
    given = {
        "root": tmp_path, "runtime": Runtime(cache_dir=str(tmp_path)), "resources": Resources(cpus=2, processes=2),
        "tracking_uri": new_store(tmp_path), "run_trial": "joint_trial:run_trial",
        "prepare": "joint_trial:prepare", "quiet": True,
    }  # fmt: skip
    driver = threading.Thread(target=lambda: done.append(run_sweep(spec, **given)))
    driver.start()
    trial = tmp_path / "joint" / "trials" / config_hash(expand(spec)[0])
    log = trial / "processes.log"

    def processes() -> list[int]:
        return [int(line) for line in log.read_text().splitlines()] if log.exists() else []

    try:
        wait_for(lambda: len(processes()) == 2 and read_progress(trial).get("step"))
        first = processes()
        # One of the four parts that know the lease is as good as the other: all see the file.
        (trial / "worker.lease").write_text('{"owner": "other", "host": "elsewhere", "pid": 1, "beat": 1}')
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in first))
        assert processes() == first, "nobody goes on beside the other"
        assert (read_lease(trial / "worker.lease") or {})["owner"] == "other"
        assert not list(trial.glob("error-*")) and not (trial / "failure.json").exists()
        before = read_progress(trial)
        time.sleep(1)
        assert read_progress(trial) == before, "the folder is the other's"
        (trial / "worker.lease").unlink()
        wait_for(lambda: len(processes()) == 4)
    finally:
        trial.mkdir(parents=True, exist_ok=True)
        (trial / "enough").touch()
        driver.join(SECONDS)
    assert done[0].counts == {"finished": 1} and not list(trial.glob("error-*"))
    assert not (trial / "ray").exists() and not (trial / "worker.lease").exists()

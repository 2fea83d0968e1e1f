"""A trial's records: nothing twice, nothing lost, and no trial harmed by a store that is away."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_trial import STEPS, run_trial
from mlflow.tracking import MlflowClient
from runs import nowhere, only_run, steps

from analysis.table.mlflow import read_mlflow
from drorae.config import PRESETS, Runtime, config_hash, flatten
from sweeps.folder.sweep import RunAddress
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import DIGEST, TrialTracker


@pytest.mark.slow
def test_a_resumed_trial_is_one_run_with_each_step_once(sweep: SweepTracker, tmp_path: Path) -> None:
    config = replace(PRESETS["smoke"], seed=1)
    first = TrialTracker(sweep.address, config, tmp_path)
    first.start()
    rows: list[dict[str, float | str]] = [
        {"phase": "phase2", "step": float(step), "loss": 1.0 / step} for step in range(1, 5)
    ]
    first.report({"phase": "prepare", "note": "x"})
    first.report({"phase": "phase1", "step": 1.0, "loss": 9.0})
    for row in rows[:3]:
        first.report(row)
    assert first.flush()
    # Killed here; the next attempt reports the rows of the checkpoint again, then phase 3.
    second = TrialTracker(sweep.address, config, tmp_path)
    second.start()
    for row in rows:
        second.report(row)
    second.report({"phase": "phase3", "step": 1.0, "loss": 0.1})
    assert second.flush()
    run = only_run(sweep.client, sweep.address, config)
    assert steps(sweep.client, run) == [1, 2, 3, 4, 5]
    assert run.info.status == "RUNNING" and run.data.tags["mlflow.parentRunId"] == sweep.parent_run_id
    assert run.data.params["fusion.expert_hidden_dim"] == "32" and set(run.data.params) == set(flatten(config))


def test_a_finished_trial_is_recorded_whole_and_only_once(sweep: SweepTracker, tmp_path: Path) -> None:
    config = replace(PRESETS["smoke"], seed=2)
    tracker = TrialTracker(sweep.address, config, tmp_path)
    tracker.start()
    run_trial(config, tracker.report, directory=tmp_path, runtime=Runtime())
    (tmp_path / "inspection.json").write_text('{"cos_fuse_base": -0.22}')
    assert tracker.finish() and TrialTracker(sweep.address, config, tmp_path).finish()
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and run.data.tags["drorae.status"] == "finished"
    expected = {"psnr", "ssim", "l1", "rfd_dinov2", "rfd_effnet", "eval_images", "fusion_params"}
    expected |= {
        "fusion_params_paper",
        "train_seconds",
        "device_seconds",
        "train_flops",
        "wall_seconds",
        "baseline_psnr",
        "seed",
    }
    assert expected <= set(run.data.metrics)
    assert run.data.metrics["inspection/cos_fuse_base"] == -0.22
    assert run.data.tags["drorae.mark.rfd_dinov2"] == "in the tokenizer's own features"
    assert run.data.tags["drorae.mark.rfd_effnet"] == "in training's features"
    assert run.data.tags["drorae.looked_through"] == "dinov2=tokenizer effnet=training"
    table = read_mlflow(sweep.address.tracking_uri, parent_run=sweep.parent_run_id)
    assert "dinov2=tokenizer effnet=training" in set(table["looked_through"])
    assert not any(name.startswith("drorae.mark.psnr") for name in run.data.tags)
    assert run.data.metrics["log10_params"] == pytest.approx(4.50515, abs=1e-5)
    assert run.data.tags["drorae.git_commit"] == "abc" and run.data.tags["drorae.fingerprint.encoder"] == "def"
    assert len(sweep.client.get_metric_history(run.info.run_id, "psnr")) == 1
    assert steps(sweep.client, run) == list(range(1, STEPS + 1))
    names = {item.path for item in sweep.client.list_artifacts(run.info.run_id)}
    assert {
        "config.json",
        "result.json",
        "grid.png",
        "routing.png",
        "loss.png",
        "per_image.npz",
        "inspection.json",
    } <= names


def test_a_store_that_is_away_costs_nothing_but_a_warning(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = replace(PRESETS["smoke"], seed=3)
    directory = tmp_path / config_hash(config)
    directory.mkdir()
    said: list[str] = []
    away = TrialTracker(RunAddress(nowhere(), "1", "parent"), config, directory, said.append)
    assert not away.start()
    run_trial(config, away.report, directory=directory, runtime=Runtime())
    assert not away.finish()
    assert len(said) == 1 and "\n" not in said[0]
    spool = directory / "spool.jsonl"
    assert len(spool.read_text().splitlines()) == STEPS
    with spool.open("a") as file:
        file.write('{"step": 7, "ti')  # cut short by a kill
    # The next start of the sweep finds the store again.
    sweep.settle([config], tmp_path, said.append)
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, STEPS + 1))
    assert not spool.exists() and len(said) == 1


def measure_again(directory: Path, **changed: float) -> dict[str, float]:
    """Other numbers in a trial's result.json, and another commit; returns what a table has of them."""
    path = directory / "result.json"
    tree = json.loads(path.read_text())
    tree["metrics"] = {name: value + 1 for name, value in tree["metrics"].items()} | changed
    tree["provenance"]["git_commit"] = "another"
    path.write_text(json.dumps(tree))
    np.savez(directory / "per_image.npz", psnr=np.arange(9.0))
    return tree["metrics"]


@pytest.mark.parametrize("by", ["worker", "driver"])
def test_a_trial_measured_again_is_recorded_as_the_table_has_it(sweep: SweepTracker, tmp_path: Path, by: str) -> None:
    """`driver`: the store was away while the worker measured."""
    config = replace(PRESETS["smoke"], seed=20 + len(by))
    directory = tmp_path / config_hash(config)
    directory.mkdir()
    run_trial(config, lambda row: None, directory=directory, runtime=Runtime())
    assert TrialTracker(sweep.address, config, directory).finish()
    before = only_run(sweep.client, sweep.address, config)
    # A clock that was ahead must not keep the first value for good.
    for metric in ("psnr", "ssim"):
        sweep.client.log_metric(before.info.run_id, metric, 7.0, timestamp=10**13, step=0)
    table = measure_again(directory, l1=math.nan)
    if by == "worker":
        assert TrialTracker(sweep.address, config, directory).finish()
    sweep.settle([config], tmp_path, pytest.fail)
    after = only_run(sweep.client, sweep.address, config)
    assert (
        after.data.metrics["gain_psnr"] == pytest.approx(table["psnr"] - 10) and after.data.metrics["gain_psnr_se"] > 0
    )
    shown = {name: after.data.metrics[name] for name in table if name != "eval_images"}
    assert shown == pytest.approx({name: table[name] for name in shown}, nan_ok=True)
    assert after.data.tags["drorae.git_commit"] == "another" and after.info.status == "FINISHED"
    with np.load(sweep.client.download_artifacts(after.info.run_id, "per_image.npz", str(tmp_path))) as arrays:
        assert len(arrays["psnr"]) == 9
    # A resume finds nothing to record.
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("log_batch", "log_artifact", "set_tag", "set_terminated"):
            patch.setattr(MlflowClient, name, lambda *arguments, name=name, **named: sent.append(name))
        sweep.settle([config], tmp_path, pytest.fail)
    assert not sent
    assert len(sweep.client.get_metric_history(after.info.run_id, "seed")) == 1
    # It failed when it was made once more: the table has no measure of it.
    (directory / "result.json").unlink()
    (directory / "failure.json").write_text('{"reason": "no luck"}')
    sweep.settle([config], tmp_path, pytest.fail)
    failed = only_run(sweep.client, sweep.address, config)
    assert failed.info.status == "FAILED" and failed.data.tags["drorae.reason"] == "no luck"
    assert all(
        math.isnan(failed.data.metrics[name]) for name in ("psnr", "rfd_dinov2", "baseline_psnr", "gain_psnr_se")
    )
    assert failed.data.metrics["seed"] == config.seed


def test_a_run_of_an_older_version_that_agrees_is_sent_no_files_again(sweep: SweepTracker, tmp_path: Path) -> None:
    config = replace(PRESETS["smoke"], seed=30)
    directory = tmp_path / config_hash(config)
    directory.mkdir()
    run_trial(config, lambda row: None, directory=directory, runtime=Runtime())
    assert TrialTracker(sweep.address, config, directory).finish()
    run = only_run(sweep.client, sweep.address, config)
    sweep.client.delete_tag(run.info.run_id, DIGEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lambda *arguments: pytest.fail("sent again"))
        sweep.settle([config], tmp_path, pytest.fail)
    assert DIGEST in only_run(sweep.client, sweep.address, config).data.tags


def test_damaged_files_of_a_trial_are_said_and_the_rest_is_recorded(sweep: SweepTracker, tmp_path: Path) -> None:
    config = replace(PRESETS["smoke"], seed=32)
    run_trial(config, lambda row: None, directory=tmp_path, runtime=Runtime())
    rows = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(rows + '{"phase": "pha')
    (tmp_path / "samples.npz").write_bytes((tmp_path / "samples.npz").read_bytes()[:500])
    said: list[str] = []
    assert TrialTracker(sweep.address, config, tmp_path, said.append).finish()
    assert len(said) == 1 and "pictures not drawn" in said[0]
    run = only_run(sweep.client, sweep.address, config)
    assert run.info.status == "FINISHED" and steps(sweep.client, run) == list(range(1, STEPS + 1))

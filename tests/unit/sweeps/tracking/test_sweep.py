"""A sweep's own records: its runs agree with the disk, whatever the store does."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fake_trial import STEPS, run_trial
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from runs import nowhere, only_run, steps
from sqlalchemy.exc import OperationalError

from drorae.config import PRESETS, Runtime, config_hash
from drorae.errors import UserError
from drorae.training.rows import PASSING
from drorae.trial.folder import TrialStatus, write_ending
from sweeps.folder.sweep import RunAddress
from sweeps.tracking import recorder, trial
from sweeps.tracking import sweep as sweep_tracking
from sweeps.tracking.client import Store
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker


def test_runs_are_made_to_agree_with_the_disk(sweep: SweepTracker, tmp_path: Path) -> None:
    done, failed, lost, pruned = (replace(PRESETS["smoke"], seed=seed) for seed in range(10, 14))
    empty, endless = (replace(PRESETS["smoke"], seed=seed) for seed in (14, 15))
    for config in (done, failed, lost, pruned, empty, endless):
        (tmp_path / config_hash(config)).mkdir()
        tracker = TrialTracker(sweep.address, config, tmp_path / config_hash(config))
        tracker.start()
        tracker.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        tracker.flush()
    run_trial(done, lambda row: None, directory=tmp_path / config_hash(done), runtime=Runtime())
    (tmp_path / config_hash(failed) / "failure.json").write_text('{"reason": "no luck"}')
    (tmp_path / config_hash(pruned) / "pruned.json").write_text('{"reason": "too slow"}')
    write_ending(tmp_path / config_hash(empty), TrialStatus.NO_RESULT, "left nothing")
    run_trial(endless, lambda row: None, directory=tmp_path / config_hash(endless), runtime=Runtime())
    result = tmp_path / config_hash(endless) / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"metrics": {"psnr": math.nan}}))
    configs = [done, failed, lost, pruned, empty, endless]
    sweep.settle(configs, tmp_path, print, running=frozenset([config_hash(lost)]))
    assert only_run(sweep.client, sweep.address, lost).info.status == "RUNNING"
    sweep.settle(configs, tmp_path, print)
    runs = [only_run(sweep.client, sweep.address, config) for config in configs]
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "KILLED", "KILLED", "FAILED", "FINISHED"]
    said = ["finished", "failed", "missing", "pruned", "no_result", "nonfinite"]
    assert [run.data.tags["drorae.status"] for run in runs] == said
    assert runs[1].data.tags["drorae.reason"] == "no luck"
    assert runs[0].data.metrics["psnr"] > 0 and steps(sweep.client, runs[0]) == list(range(1, STEPS + 1))


def test_a_preparation_is_recorded_by_the_rows_that_are_kept(sweep: SweepTracker) -> None:
    row: dict[str, float | str] = {"phase": "phase1", "loss": 0.5}
    rows = [row | {"step": float(step)} | ({PASSING: 1.0} if step % 3 else {}) for step in range(1, 7)]
    sweep.log_preparation([{"phase": "prepare", "note": "encoding"}, *rows])
    history = sweep.client.get_metric_history(sweep.parent_run_id, "phase1/loss")
    assert [metric.step for metric in history] == [3, 6]
    assert f"phase1/{PASSING}" not in sweep.client.get_run(sweep.parent_run_id).data.metrics


def test_the_sweep_s_own_counts_follow(sweep: SweepTracker) -> None:
    sweep.close({"finished": 1, "diverged": 2}, [], pytest.fail)
    sweep.close({"finished": 3}, [], pytest.fail)
    counts = sweep.client.get_run(sweep.parent_run_id).data.metrics
    assert (counts["trials_finished"], counts["trials_diverged"], counts["trials_missing"]) == (3, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [TypeError, KeyError, ValueError])
def test_a_bug_of_ours_is_no_store_that_is_away(
    sweep: SweepTracker,
    new_store: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: type[Exception],
) -> None:
    config = replace(PRESETS["smoke"], seed=31)
    directory = tmp_path / config_hash(config)
    directory.mkdir()
    run_trial(config, lambda row: None, directory=directory, runtime=Runtime())

    def broken(*anything: object, **named: object) -> None:
        raise bug("ours")

    said: list[str] = []
    tracker = TrialTracker(sweep.address, config, directory, said.append)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "trial_row", broken)
        for call in (tracker.finish, lambda: sweep.settle([config], tmp_path, said.append)):
            with pytest.raises(bug, match="ours"):
                call()
    with monkeypatch.context() as patch:
        patch.setattr(TrialTracker, "report", broken)
        with recorder.Recorder(TrialTracker(sweep.address, config, directory, said.append)) as recording:
            recording.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
            deadline = time.monotonic() + 300
            while not said and time.monotonic() < deadline:
                time.sleep(0.02)
    assert len(said) == 1 and bug.__name__ in said[0] and "does not answer" not in said[0]
    with monkeypatch.context() as patch:
        patch.setattr(sweep_tracking, "shared_view", broken)
        with pytest.raises(bug, match="ours"):
            sweep.share_view(["psnr"], said.append)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "send_final", broken)
        with pytest.raises(bug, match="ours"):
            sweep.close({}, [], said.append)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_tracking, "_versions", broken)
        with pytest.raises(bug, match="ours"):
            SweepTracker("with a bug", "other", tmp_path, new_store(tmp_path)).open_parent("a test")


@pytest.mark.parametrize(
    "away",
    [
        MlflowException("busy"),
        OperationalError("select", {}, Exception("locked")),
        requests.ConnectionError("refused"),
        TimeoutError("late"),
        json.JSONDecodeError("a login page", "<html>", 0),
        ModuleNotFoundError("No module named 'psycopg2'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_store_raises_is_one_line(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: Exception
) -> None:
    def refuse(*anything: object, **named: object) -> None:
        raise away

    said: list[str] = []
    for name in ("search_runs", "get_run", "get_experiment_by_name"):
        monkeypatch.setattr(MlflowClient, name, refuse)
    assert not TrialTracker(sweep.address, PRESETS["smoke"], tmp_path, said.append).start()
    sweep.settle([PRESETS["smoke"]], tmp_path, said.append)
    sweep.close({}, [], said.append)
    assert len(said) == 3 and all("does not answer" in line and "\n" not in line for line in said)
    with pytest.raises(UserError, match="cannot be used"):
        SweepTracker("tracked", "id", tmp_path, sweep.uri)


def test_an_unusable_store_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as raised:
        SweepTracker("s", "id", tmp_path, nowhere())
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_written_is_named(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PRESETS["smoke"], seed=32)
    directory = tmp_path / config_hash(config)
    directory.mkdir()
    run_trial(config, lambda row: None, directory=directory, runtime=Runtime())

    def refuse(*anything: object, **named: object) -> None:
        raise NotADirectoryError(20, "Not a directory", "/data/mlartifacts")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    said: list[str] = []
    sweep.settle([config], tmp_path, said.append)
    sweep.close({}, [directory / "result.json"], said.append)
    assert len(said) == 2 and all("(/data/mlartifacts cannot be used: Not a directory)" in line for line in said)


def _sweep_of_two(root: Path, uri: str, known: RunAddress | None = None) -> SweepTracker:
    """Records two finished trials as every start of their sweep does."""
    tracker = SweepTracker("mine", "id", root, uri, known)
    tracker.open_parent("a test")
    configs = [replace(PRESETS["smoke"], seed=seed) for seed in (1, 2)]
    for config in configs:
        directory = root / "trials" / config_hash(config)
        if not directory.exists():
            directory.mkdir(parents=True)
            run_trial(config, lambda row: None, directory=directory, runtime=Runtime())
    tracker.settle(configs, root / "trials", pytest.fail)
    return tracker


def _gone_for_good(root: Path, run_id: str) -> None:
    with sqlite3.connect(root / "mlflow.db") as store:
        for table in ("tags", "latest_metrics", "metrics", "params", "runs"):
            store.execute(f"delete from {table} where run_uuid = ?", (run_id,))
    store.close()


@pytest.mark.parametrize(
    ("meddling", "moved"),
    [
        ("parent", True),
        ("parent and children", False),
        ("child", False),
        ("rename", False),
        ("rename", True),
        ("rename, and parent for good", False),
        ("parent for good, and child", True),
    ],
)
def test_what_people_delete_or_rename_in_the_store_leaves_every_trial_one_run(
    new_store: Callable[[Path], str], tmp_path: Path, meddling: str, moved: bool
) -> None:
    first = _sweep_of_two(tmp_path, new_store(tmp_path))
    client, address = first.client, first.address
    children = client.search_runs([first.experiment_id], "tags.`drorae.kind` = 'trial'")
    ids = sorted(run.info.run_id for run in children)
    if "for good" in meddling:
        _gone_for_good(tmp_path, first.parent_run_id)
    elif "parent" in meddling:
        client.delete_run(first.parent_run_id)
    for run_id in ids if "children" in meddling else ids[:1] if "child" in meddling else []:
        client.delete_run(run_id)
    if "rename" in meddling:
        client.rename_experiment(first.experiment_id, "a better name")
    known = replace(address, tracking_uri="sqlite:////former/mlflow.db") if moved else address
    again = _sweep_of_two(tmp_path, first.uri, known)
    assert again.experiment_id == first.experiment_id
    assert (again.parent_run_id == first.parent_run_id) == ("for good" not in meddling)
    found = client.search_runs([first.experiment_id], "tags.`drorae.kind` = 'trial'", ViewType.ALL)
    assert sorted(run.info.run_id for run in found) == ids
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {again.parent_run_id}
    assert {(run.info.status, run.info.lifecycle_stage) for run in found} == {("FINISHED", "active")}
    parents = client.search_runs([first.experiment_id], "tags.`drorae.kind` = 'sweep'")
    assert [run.info.run_id for run in parents] == [again.parent_run_id]
    assert len(client.search_experiments(filter_string="name != 'Default'")) == 1


def test_a_deleted_experiment_is_named_as_it_is_called_now(new_store: Callable[[Path], str], tmp_path: Path) -> None:
    first = _sweep_of_two(tmp_path, new_store(tmp_path))
    first.client.rename_experiment(first.experiment_id, "a better name")
    first.client.delete_experiment(first.experiment_id)
    with pytest.raises(UserError, match=r"'a better name' was deleted; restore it \(mlflow experiments restore"):
        _sweep_of_two(tmp_path, first.uri, first.address)


def test_a_run_says_what_its_trial_is_there_for(sweep: SweepTracker, tmp_path: Path) -> None:
    own, check = (replace(PRESETS["smoke"], seed=seed) for seed in (70, 71))
    for config in (own, check):
        (tmp_path / config_hash(config)).mkdir()
        run_trial(config, lambda row: None, directory=tmp_path / config_hash(config), runtime=Runtime())

    def settled() -> dict[str, str | None]:
        sweep.settle([own, check], tmp_path, print)
        runs = (only_run(sweep.client, sweep.address, config) for config in (own, check))
        return {run.data.tags["drorae.config_hash"]: run.data.tags.get("drorae.role") for run in runs}

    sweep.roles = {config_hash(check): "convergence"}
    assert settled() == {config_hash(own): None, config_hash(check): "convergence"}
    # A later call may make a trial of the law of it.
    sweep.roles = {}
    assert settled() == {config_hash(own): None, config_hash(check): ""}

"""MLflow records: nothing twice, nothing lost, and no trial harmed by a store that is away."""

from __future__ import annotations

import errno
import json
import math
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from fake_trial import STEPS, run_trial
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import OperationalError

from drorae.config import PRESETS, Runtime, TrialConfig, config_hash, flatten
from drorae.errors import UserError
from sweeps.tracking import client, recorder
from sweeps.tracking.client import DIGEST, RunAddress, SweepTracker, TrialTracker, check_nodes, resolve_uri


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepTracker:
    root = tmp_path_factory.mktemp("runs")
    tracker = SweepTracker("tracked", "id", root, f"sqlite:///{root}/mlflow.db")
    tracker.open_parent("a test")
    return tracker


def only_run(store: MlflowClient, address: RunAddress, config: TrialConfig) -> Run:
    found = store.search_runs([address.experiment_id], f"tags.`drorae.config_hash` = '{config_hash(config)}'")
    assert len(found) == 1
    return found[0]


def steps(store: MlflowClient, run: Run) -> list[int]:
    return [metric.step for metric in store.get_metric_history(run.info.run_id, "train/loss")]


def nowhere() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


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
    expected |= {"fusion_params_paper", "train_seconds", "device_seconds", "wall_seconds", "baseline_psnr", "seed"}
    assert expected <= set(run.data.metrics)
    assert run.data.metrics["inspection/cos_fuse_base"] == -0.22
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


def test_runs_are_made_to_agree_with_the_disk(sweep: SweepTracker, tmp_path: Path) -> None:
    done, failed, lost, pruned = (replace(PRESETS["smoke"], seed=seed) for seed in range(10, 14))
    for config in (done, failed, lost, pruned):
        (tmp_path / config_hash(config)).mkdir()
        tracker = TrialTracker(sweep.address, config, tmp_path / config_hash(config))
        tracker.start()
        tracker.report({"phase": "phase2", "step": 1.0, "loss": 1.0})
        tracker.flush()
    run_trial(done, lambda row: None, directory=tmp_path / config_hash(done), runtime=Runtime())
    (tmp_path / config_hash(failed) / "failure.json").write_text('{"reason": "no luck"}')
    (tmp_path / config_hash(pruned) / "pruned.json").write_text('{"reason": "too slow"}')
    configs = [done, failed, lost, pruned]
    sweep.settle(configs, tmp_path, print, running=frozenset([config_hash(lost)]))
    assert only_run(sweep.client, sweep.address, lost).info.status == "RUNNING"
    sweep.settle(configs, tmp_path, print)
    runs = [only_run(sweep.client, sweep.address, config) for config in configs]
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "KILLED", "KILLED"]
    assert [run.data.tags["drorae.status"] for run in runs] == ["finished", "failed", "missing", "pruned"]
    assert runs[1].data.tags["drorae.reason"] == "no luck"
    assert runs[0].data.metrics["psnr"] > 0 and steps(sweep.client, runs[0]) == list(range(1, STEPS + 1))


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
    assert all(math.isnan(failed.data.metrics[name]) for name in ("psnr", "rfd_dinov2", "baseline_psnr"))
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


def test_the_sweep_s_own_counts_follow(sweep: SweepTracker) -> None:
    sweep.close({"finished": 1, "diverged": 2}, [], pytest.fail)
    sweep.close({"finished": 3}, [], pytest.fail)
    counts = sweep.client.get_run(sweep.parent_run_id).data.metrics
    assert (counts["trials_finished"], counts["trials_diverged"], counts["trials_missing"]) == (3, 0, 0)


@pytest.mark.parametrize("bug", [TypeError, KeyError, AttributeError, ZeroDivisionError, ValueError])
def test_a_bug_of_ours_is_no_store_that_is_away(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
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
        patch.setattr(client, "trial_row", broken)
        for call in (tracker.finish, lambda: sweep.settle([config], tmp_path, said.append)):
            with pytest.raises(bug, match="ours"):
                call()
        with recorder.Recorder(TrialTracker(sweep.address, config, directory, said.append)) as recording:
            assert recording.finish(), "training goes on"
    assert len(said) == 1 and bug.__name__ in said[0] and "does not answer" not in said[0]
    with monkeypatch.context() as patch:
        patch.setattr(client, "shared_view", broken)
        with pytest.raises(bug, match="ours"):
            sweep.share_view(["psnr"], said.append)
    with monkeypatch.context() as patch:
        patch.setattr(client, "log_metrics", broken)
        with pytest.raises(bug, match="ours"):
            sweep.close({}, [], said.append)
    with monkeypatch.context() as patch:
        patch.setattr(client, "_versions", broken)
        with pytest.raises(bug, match="ours"):
            SweepTracker("with a bug", "other", tmp_path, f"sqlite:///{tmp_path}/mlflow.db").open_parent("a test")


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


def test_an_unusable_store_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as raised:
        SweepTracker("s", "id", tmp_path, nowhere())
    assert "\n" not in str(raised.value)


def test_where_runs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/other.db"
    assert resolve_uri("http://127.0.0.1:5000", Path("runs")) == "http://127.0.0.1:5000"


def test_a_password_in_the_address_and_sqlite_between_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        resolve_uri("https://me:secret@tracking.example/", tmp_path)
    assert "secret" not in str(raised.value)
    check_nodes("sqlite:///x.db", ["10.0.0.1", "10.0.0.1"])
    check_nodes("http://server:5000", ["10.0.0.1", "10.0.0.2"])
    with pytest.raises(UserError, match="mlflow server"):
        check_nodes("sqlite:///x.db", ["10.0.0.1", "10.0.0.2"])


def test_a_full_disk_and_a_long_absence_cost_no_trial(
    sweep: SweepTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.tracking import client as tracking

    said: list[str] = []
    config = replace(PRESETS["smoke"], seed=77)
    away = replace(sweep.address, tracking_uri=nowhere())
    tracker = TrialTracker(away, config, tmp_path, said.append)
    monkeypatch.setattr(tracking, "SPOOL_ROWS", 50)

    def full(path: Path, content: bytes) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "write_atomic", full)
        for step in range(1, 40):
            tracker.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
        assert not tracker.flush() and not tracker.flush()
    assert sum("No space left" in line for line in said) == 1 and not tracker.spool.exists()
    for step in range(40, 90):
        tracker.report({"phase": "phase2", "step": float(step), "loss": 1.0 / step})
    assert not tracker.flush()
    kept = [json.loads(line)["step"] for line in tracker.spool.read_text().splitlines()]
    assert kept[0] == 1 and kept[-1] == 89 and len(kept) <= 50 and any("thinned" in line for line in said)
    # The store is back: a later process sends what waited, each step once.
    later = TrialTracker(sweep.address, config, tmp_path)
    assert later.start() and later.flush() and not later.spool.exists()
    assert steps(sweep.client, only_run(sweep.client, sweep.address, config)) == kept


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

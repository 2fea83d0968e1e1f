"""Sweeps on real Ray and a real MLflow store, with a stand-in for the trial."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_sweep import sweep
from hook import hook
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from drorae.commands.main import main
from drorae.config import PRESETS, config_hash, load_config, override
from drorae.errors import UserError
from drorae.storage.files import write_json
from drorae.trial.folder import read_outcome, set_damaged_aside
from sweeps.driver.run import SweepOutcome, resume_sweep
from sweeps.driver.status import sweep_state
from sweeps.folder.lease import Lease, LeaseLostError
from sweeps.folder.table import table_rows
from sweeps.resources import Resources
from sweeps.settings import Asha
from sweeps.spec import Axis, SweepSpec, expand

pytestmark = pytest.mark.usefixtures("ray")


def make(
    name: str, trouble: str = "", capacities: tuple[int, ...] = (4, 8, 16), seeds: tuple[int, ...] = (0,)
) -> SweepSpec:
    base = override(PRESETS["smoke"], "encoder.path", trouble)
    return SweepSpec(name, base, (Axis("capacity", capacities), Axis("seed", seeds)))


def attempts(outcome: SweepOutcome) -> dict[str, int]:
    logs = outcome.directory.glob("trials/*/attempts.log")
    return {log.parent.name: len(log.read_text().splitlines()) for log in logs}


def runs(outcome: SweepOutcome) -> list[Run]:
    client = MlflowClient(outcome.tracking_uri)
    experiment = client.get_experiment_by_name(outcome.directory.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


SLOW = make("sweep", "sleep=0.15", (4, 8), (0, 1))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    return sweep(SLOW, tmp_path_factory.mktemp("runs"))


def test_a_sweep_leaves_a_table_and_a_run_per_trial(undisturbed: SweepOutcome) -> None:
    assert undisturbed.counts == {"finished": 4}
    table = pd.read_csv(undisturbed.trials_csv)
    assert list(table["config_hash"]) == [config_hash(config) for config in expand(SLOW)]
    assert list(table["expert_hidden_dim"]) == [4, 4, 8, 8] and list(table["seed"]) == [0, 1, 0, 1]
    named = {"variant", "num_layers", "fusion_params", "psnr", "ssim", "rfd_dinov2", "rfd_effnet2", "eval_images"}
    assert named | {"train_seconds", "status", "reason"} <= set(table.columns)
    found = runs(undisturbed)
    assert {run.info.status for run in found} == {"FINISHED"} and len(found) == 5
    parent = next(run for run in found if run.data.tags["drorae.kind"] == "sweep")
    assert parent.info.run_id == undisturbed.parent_run_id
    assert {run.data.tags.get("mlflow.parentRunId") for run in found} == {None, undisturbed.parent_run_id}
    assert not (undisturbed.directory / "ray").exists()
    # The UI reads its charts from this tag of the experiment.
    experiment = MlflowClient(undisturbed.tracking_uri).get_experiment_by_name("sweep")
    assert experiment is not None and undisturbed.charts in experiment.tags["mlflow.note.content"]
    key = undisturbed.charts.split("viewStateShareKey=")[1].split("&")[0]
    state = json.loads(zlib.decompress(base64.b64decode(experiment.tags[f"mlflow.sharedViewState.{key}"][8:])))
    charted = [chart["yaxis"]["key"] for chart in state["compareRunCharts"]]
    assert charted == ["psnr", "ssim", "rfd_dinov2", "rfd_effnet"]


def test_a_rerun_redoes_nothing_and_another_sweep_is_refused(undisturbed: SweepOutcome) -> None:
    root = undisturbed.directory.parent
    before = undisturbed.trials_csv.read_text()
    again = sweep(SLOW, root)
    assert again.counts == {"finished": 4} and again.parent_run_id == undisturbed.parent_run_id
    assert attempts(again) == dict.fromkeys(attempts(undisturbed), 1) and len(runs(again)) == 5
    assert again.trials_csv.read_text() == before
    assert len((root / "prepared.log").read_text().splitlines()) == 1
    assert sweep_state(again.directory).counts == {"finished": 4}
    smaller = replace(SLOW, axes=(SLOW.axes[0],))
    with pytest.raises(UserError, match="another sweep"):
        sweep(smaller, root)


def test_failures_are_retried_then_recorded_and_tried_again_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make("troubled", "once=4&always=8&kill=16&user=32", (4, 8, 16, 32))
    outcome = sweep(spec, tmp_path, max_failures=1, notify=shlex.join(hook(tmp_path / "told")))
    assert outcome.counts == {"finished": 2, "failed": 2}
    told = (tmp_path / "told").read_text().splitlines()
    assert len(told) == 2 and told[1] == f"finished troubled: 2 finished, 2 failed; results in {outcome.place}"
    reasons = r"(8 .*failed: RuntimeError: it never works|32 .*failed: fusion: a width nobody can use)"
    assert re.fullmatch(rf"failed-trial troubled: capacity={reasons}", told[0])
    table = pd.read_csv(outcome.trials_csv, keep_default_na=False).set_index("expert_hidden_dim")
    assert dict(table["status"]) == {4: "finished", 8: "failed", 16: "finished", 32: "failed"}
    assert table["reason"][8] == "RuntimeError: it never works"
    assert table["reason"][32] == "fusion: a width nobody can use"
    by_width = {config.fusion.expert_hidden_dim: config_hash(config) for config in expand(spec)}
    tried = attempts(outcome)
    assert {width: tried[key] for width, key in by_width.items()} == {4: 2, 8: 2, 16: 2, 32: 1}
    children = [run for run in runs(outcome) if run.data.tags["drorae.kind"] == "trial"]
    states = {int(run.data.params["fusion.expert_hidden_dim"]): run.info.status for run in children}
    assert states == {4: "FINISHED", 8: "FAILED", 16: "FINISHED", 32: "FAILED"}
    client = MlflowClient(outcome.tracking_uri)
    assert client.get_run(outcome.parent_run_id).info.status == "FAILED"
    for run in children:
        logged = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert len(logged) == len(set(logged))
    # A slow machine gives signs of life between.
    printed = [line for line in capsys.readouterr().err.splitlines() if "] training: " not in line]
    assert any(line.startswith("[4/4] capacity=") for line in printed) and len(printed) < 15
    # A larger sweep of the same name goes on from this one.
    spec = make("troubled", "once=4&always=8&kill=16&user=32", (4, 8, 16, 32, 64))
    by_width = {config.fusion.expert_hidden_dim: config_hash(config) for config in expand(spec)}
    later = attempts(sweep(spec, tmp_path, max_failures=0, resources=Resources(max_concurrent=1)))
    assert {width: later[key] for width, key in by_width.items()} == {4: 2, 8: 3, 16: 2, 32: 2, 64: 1}


def test_killing_the_driver_loses_and_repeats_nothing(undisturbed: SweepOutcome, tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[2]); import test_sweep; from pathlib import Path; "
    code += "test_sweep.sweep(test_sweep.SLOW, Path(sys.argv[1]))"
    here = str(Path(__file__).parent)
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here], stdout=subprocess.DEVNULL)
    trials = tmp_path / "sweep" / "trials"
    deadline = time.monotonic() + 300
    while len(list(trials.glob("*/result.json"))) < 1 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = {path.parent.name for path in trials.glob("*/result.json")}
    assert 1 <= len(done) < 4
    outcome = sweep(SLOW, tmp_path)
    assert outcome.counts == {"finished": 4}
    assert outcome.trials_csv.read_text() == undisturbed.trials_csv.read_text()
    tried = attempts(outcome)
    assert {tried[key] for key in done} == {1}
    found = runs(outcome)
    assert len(found) == 5 and {run.info.status for run in found} == {"FINISHED"}


def test_pruned_trials_are_named_and_not_done_again(tmp_path: Path) -> None:
    # The first two, alone at their rungs, go on; later ones with a higher loss stop.
    spec = make("pruned", "sleep=0.05", (64, 32, 8, 4))
    outcome = sweep(spec, tmp_path, asha=Asha(1, 2), resources=Resources(max_concurrent=1))
    assert outcome.counts["pruned"] >= 1 and outcome.counts["finished"] >= 1
    assert sum(outcome.counts.values()) == 4
    states = {
        run.data.tags["drorae.status"]: run.info.status
        for run in runs(outcome)
        if "drorae.config_hash" in run.data.tags
    }
    assert states == {"pruned": "KILLED", "finished": "FINISHED"}
    assert sweep(spec, tmp_path).counts == outcome.counts


def test_what_a_user_gets_wrong_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    spec = make("wrong")
    missing = replace(spec, base=override(spec.base, "images.path", "nowhere"))
    for wrong, settings, expected in (
        (missing, {}, "nowhere: no such folder"),
        (spec, {"resources": Resources(cpus=4096)}, "4096 CPUs"),
        (spec, {"resources": Resources(gpus=1.5)}, "GPUs"),
        (spec, {"max_failures": -1}, "max_failures"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            sweep(wrong, tmp_path, **settings)
        assert "\n" not in str(raised.value) and not (tmp_path / "wrong").exists()
    with pytest.raises(UserError, match="no sweep here"):
        sweep_state(tmp_path / "wrong")


def test_trials_that_cannot_be_prepared_are_told_as_failed(tmp_path: Path) -> None:
    spec = SweepSpec("partly", PRESETS["smoke"], (Axis("images.path", ("somewhere", "nowhere")),))
    outcome = sweep(spec, tmp_path, notify=shlex.join(hook(tmp_path / "told")))
    assert outcome.counts == {"finished": 1, "failed": 1}
    assert (tmp_path / "told").read_text().splitlines() == [
        "failed-trial partly: images.path=nowhere failed: nowhere: no such folder",
        f"finished partly: 1 finished, 1 failed; results in {outcome.place}",
    ]


def test_two_drivers_on_one_sweep_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    other = Lease(tmp_path / "twice" / "driver.lease")
    assert other.acquire()
    with other, pytest.raises(UserError, match="another drorae sweep is running"):
        sweep(make("twice"), tmp_path)


def test_a_budget_stops_new_trials_and_resume_goes_on_with_the_settings(tmp_path: Path) -> None:
    spec = make("dear", "sleep=0.3", (4, 8, 16, 32))
    first = sweep(spec, tmp_path, budget_hours=1 / 3600, resources=Resources(max_concurrent=1), max_failures=1)
    assert first.counts["finished"] >= 1 and first.counts["missing"] >= 1
    state = sweep_state(first.directory)
    assert state.counts == first.counts and not state.driven and not state.running
    assert state.cost.cpu_hours >= 1 / 3600 and state.cost.gpu_hours == 0
    before = attempts(first)
    # As the user would who changed nothing but the budget.
    tree = json.loads((first.directory / "sweep.json").read_text())
    assert tree["settings"]["resources"]["max_concurrent"] == 1 and tree["settings"]["max_failures"] == 1
    (first.directory / "sweep.json").write_text(json.dumps(tree | {"settings": tree["settings"] | {"budget_hours": 0}}))
    again = resume_sweep(first.directory, tracking_uri=first.tracking_uri, quiet=True)
    assert again.counts == {"finished": 4} and again.parent_run_id == first.parent_run_id
    assert attempts(again) == before | {key: 1 for key in attempts(again) if key not in before}


def test_the_state_of_a_sweep_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = make("busy", "sleep=0.8", (4, 8, 16))
    done = []
    worker = threading.Thread(target=lambda: done.append(sweep(spec, tmp_path, quiet=True)))
    worker.start()
    seen = None
    deadline = time.monotonic() + 300
    while worker.is_alive() and time.monotonic() < deadline:
        if (tmp_path / "busy" / "sweep.json").exists():
            seen = sweep_state(tmp_path / "busy")
            if any(item.loss is not None for item in seen.running):
                break
        time.sleep(0.1)
    assert main(["status", "busy", "--root", str(tmp_path)]) == 0
    worker.join()
    printed = capsys.readouterr().out
    assert all(column in printed for column in ("running", "phase", "step", "loss", "images/s", "memory"))
    assert seen is not None and seen.driven and seen.running and sum(seen.counts.values()) == 3
    assert {item.label for item in seen.running} <= {"capacity=4", "capacity=8", "capacity=16"}
    trained = [item for item in seen.running if item.loss is not None]
    assert trained and all(item.loss and item.loss < 1 and item.phase == "phase2" for item in trained)
    assert all(item.memory_bytes and item.memory_bytes > 1e6 for item in seen.running)
    assert "phase2" in printed and " GB" in printed
    after = sweep_state(tmp_path / "busy")
    assert after.counts == {"finished": 3} and not after.driven and after.seconds_left == 0


def test_a_driver_whose_sweep_was_taken_over_stops_and_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    raised: list[BaseException] = []

    def drive() -> None:
        try:
            sweep(make("taken", "sleep=1", (4, 8)), tmp_path, quiet=True)
        except UserError as error:
            raised.append(error)

    driver = threading.Thread(target=drive)
    driver.start()
    deadline = time.monotonic() + 300
    while not list(folder.glob("trials/*/attempts.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    other = {"owner": "other", "host": "elsewhere", "pid": 1, "beat": 1}
    write_json(folder / "driver.lease", other)
    driver.join(300)
    assert isinstance(raised[0], LeaseLostError) and "took this over" in str(raised[0])
    assert not (folder / "trials.csv").exists(), "the table is the other's to write"
    assert json.loads((folder / "driver.lease").read_text()) == other


def test_a_worker_whose_trial_was_taken_over_begins_anew_and_counts_no_failure(tmp_path: Path) -> None:
    """Its lease is gone, as if another had taken it over and given it back."""
    folder = tmp_path / "given" / "trials"
    done: list[SweepOutcome] = []
    spec = make("given", "sleep=1.5", (4,))
    driver = threading.Thread(target=lambda: done.append(sweep(spec, tmp_path, quiet=True)))
    driver.start()
    deadline = time.monotonic() + 300
    while not list(folder.glob("*/checkpoint.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    (trial,) = folder.iterdir()
    (trial / "worker.lease").unlink()
    driver.join(300)
    assert done[0].counts == {"finished": 1}
    assert attempts(done[0]) == {trial.name: 2} and not list(trial.glob("error-*"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "finished"}', "\udcff\udcfe"])
def test_a_damaged_result_costs_its_own_trial_alone(
    tmp_path: Path, undisturbed: SweepOutcome, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    shutil.copytree(undisturbed.directory, tmp_path / "sweep")
    bad, *others = sorted((tmp_path / "sweep" / "trials").iterdir())
    (bad / "result.json").write_text(content, errors="surrogateescape")
    configs = [load_config(trial / "config.json") for trial in (bad, *others)]
    rows = {row["config_hash"]: row for row in table_rows(configs, bad.parent)}
    assert rows[bad.name]["status"] == "missing" and rows[bad.name]["reason"].startswith("result.json is damaged (")
    assert {rows[trial.name]["status"] for trial in others} == {"finished"}
    assert main(["status", "sweep", "--root", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 missing" in said and "result.json is damaged" in said
    set_damaged_aside(bad)
    assert read_outcome(bad) == {"status": "missing", "reason": ""} and (bad / "result.json.damaged").exists()


def test_a_result_that_is_damaged_while_the_sweep_runs_is_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = sweep(make("sweep", "cut=16", (4, 8, 16, 32)), tmp_path)
    assert outcome.counts == {"finished": 4}
    said = [line for line in capsys.readouterr().err.splitlines() if "measured again" in line]
    assert len(said) == 1 and "result.json is damaged" in said[0]
    (damaged,) = (tmp_path / "sweep" / "trials").glob("*/result.json.damaged")
    assert damaged.read_bytes() == b""
    assert len((damaged.parent / "attempts.log").read_text().splitlines()) == 2


def test_a_sweep_with_a_damaged_result_mends_it_and_nothing_else(
    tmp_path: Path, undisturbed: SweepOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed.directory, tmp_path / "sweep")
    bad, *others = sorted((tmp_path / "sweep" / "trials").iterdir())
    whole = (bad / "result.json").read_bytes()
    (bad / "result.json").write_bytes(whole[:-10])
    (others[0] / "config.json").write_bytes(b"")
    before = {trial: (trial / "result.json").stat().st_mtime_ns for trial in others}
    outcome = sweep(SLOW, tmp_path)
    assert outcome.counts == {"finished": 4}
    said = [line for line in capsys.readouterr().err.splitlines() if "result.json: damaged" in line]
    assert len(said) == 1 and "set aside" in said[0]
    assert (others[0] / "config.json").read_bytes()
    assert (bad / "result.json").read_bytes() == whole and (bad / "result.json.damaged").read_bytes() == whole[:-10]
    assert {trial: (trial / "result.json").stat().st_mtime_ns for trial in others} == before


def test_a_core_that_others_hold_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation asks for a whole node, and after a while for half of it."""
    import ray

    @ray.remote(num_cpus=1)
    class Holder:
        def holds(self) -> bool:
            return True

    monkeypatch.setattr("sweeps.driver.preparation.PATIENCE_SECONDS", 1.0)
    whole = ray.cluster_resources()["CPU"]
    holder = Holder.remote()
    try:
        assert ray.get(holder.holds.remote())
        outcome = sweep(make("held", capacities=(4,)), tmp_path)
    finally:
        ray.kill(holder)
    assert outcome.counts == {"finished": 1}
    said = (outcome.directory / "driver.log").read_text()
    asked = rf"prepare: no {whole:g} CPUs have been free for \d s; asks for {max(1, whole // 2):g}\n"
    assert len(re.findall(asked, said)) == 1, said

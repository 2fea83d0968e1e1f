"""The files of runs are found where their sweeps lie, wherever those were moved to."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from fake_trial import run_trial
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from runs import only_run

from drorae.config import PRESETS, Runtime, config_hash
from drorae.storage.artifacts import follow
from drorae.storage.places import follow_store, tracking_uri
from sweeps.tracking.sweep import SweepTracker

FIRST, SECOND = replace(PRESETS["smoke"], seed=1), replace(PRESETS["smoke"], seed=2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one sweep of one finished, recorded trial."""
    root = tmp_path_factory.mktemp("here") / "runs"
    _record(root, FIRST)
    return root


def _record(root: Path, *configs: object) -> list[str]:
    said: list[str] = []
    tracker = SweepTracker("tracked", "id", root, tracking_uri(root), warn=said.append)
    tracker.open_parent("a test")
    trials = root / "tracked" / "trials"
    for config in (FIRST, SECOND)[: len(configs)]:
        directory = trials / config_hash(config)
        if not directory.exists():
            directory.mkdir(parents=True)
            run_trial(config, lambda row: None, directory=directory, runtime=Runtime())
    tracker.settle([FIRST, SECOND][: len(configs)], trials, said.append)
    assert [run.info.status for run in _runs(tracker)] == ["FINISHED"] * len(configs)
    tracker.close({"finished": len(configs)}, [], said.append)
    return said


def _runs(tracker: SweepTracker) -> list[Run]:
    return list(tracker.client.search_runs([tracker.experiment_id], "tags.`drorae.kind` = 'trial'"))


def _files(root: Path, config: object) -> list[str]:
    tracker = SweepTracker("tracked", "id", root, tracking_uri(root))
    tracker.open_parent("a test")
    run = only_run(tracker.client, tracker.address, config)  # type: ignore[arg-type]
    assert run.info.artifact_uri.startswith(root.resolve().as_uri())
    return sorted(item.path for item in tracker.client.list_artifacts(run.info.run_id))


def _copy(recorded: Path, to: Path) -> Path:
    """A root as it is after `mv`: MLflow's database still has the addresses of a place that is gone."""
    gone = to.parent / "gone" / "runs"
    shutil.copytree(recorded, to)
    with sqlite3.connect(to / "mlflow.db") as store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            store.execute(
                f"update {table} set {column} = replace({column}, ?, ?)",
                (recorded.resolve().as_uri(), gone.as_uri()),
            )
    store.close()
    return gone


@pytest.mark.parametrize("before", ["gone", "its parent is a file", "another sweep's root", "the original"])
def test_a_moved_root_has_its_runs_files_and_takes_new_ones(recorded: Path, tmp_path: Path, before: str) -> None:
    root = tmp_path / "else where" / "runs#1?"
    gone = _copy(recorded, root)
    if before == "its parent is a file":
        gone.parent.write_text("in the way")
    elif before == "another sweep's root":
        _record(gone)
    elif before == "the original":
        shutil.copytree(recorded, gone)
    there = sorted(path.relative_to(gone) for path in gone.rglob("*")) if gone.is_dir() else []
    said = _record(root, FIRST, SECOND)
    assert [str(gone) in line and "lie elsewhere now" in line for line in said] == [True]
    assert "result.json" in _files(root, FIRST) and _files(root, FIRST) == _files(root, SECOND)
    assert there == (sorted(path.relative_to(gone) for path in gone.rglob("*")) if gone.is_dir() else [])
    assert _record(root, FIRST, SECOND) == [], "said once"


def test_the_browser_shows_them_without_another_sweep(recorded: Path, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    gone = _copy(recorded, root)
    assert follow_store(tracking_uri(root)) == [gone] and follow_store(tracking_uri(root)) == []
    client = MlflowClient(tracking_uri(root))
    experiment = client.get_experiment_by_name("tracked")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`drorae.kind` = 'trial'")
    assert "result.json" in [item.path for item in client.list_artifacts(runs[0].info.run_id)]


def test_roots_that_share_a_store_keep_their_own(recorded: Path, tmp_path: Path) -> None:
    database = tmp_path / "shared.db"
    uri = f"sqlite:///{database}"
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        tracker = SweepTracker(f"of {root.name}", "id", root, uri)
        root.mkdir(exist_ok=True)
        tracker.open_parent("a test")
        file = tmp_path / "file.txt"
        file.write_text("kept")
        tracker.client.log_artifact(tracker.parent_run_id, str(file))
    assert follow_store(uri) == [] and follow(database, one, "of one") == []
    one.rename(tmp_path / "three")
    said: list[str] = []
    SweepTracker("of one", "id", tmp_path / "three", uri, warn=said.append)
    assert len(said) == 1 and str(one) in said[0]
    with sqlite3.connect(database) as store:
        found = dict(store.execute("select name, artifact_location from experiments"))
    store.close()
    assert found["of one"] == (tmp_path / "three" / "mlartifacts" / "of one").as_uri()
    assert found["of two"] == (two / "mlartifacts" / "of two").as_uri()


def test_nothing_happens_where_there_is_no_store(tmp_path: Path) -> None:
    assert follow(tmp_path / "mlflow.db", tmp_path) == [] and list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").write_text("no database")
    assert follow(tmp_path / "mlflow.db", tmp_path) == []

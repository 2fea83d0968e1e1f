"""Where things are where nobody says, and what the URIs and paths that people give mean."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient

from drorae.commands.main import main
from drorae.errors import UserError
from drorae.storage.places import sqlite_path, sqlite_uri, tracking_uri

NAMES = ["a?b", "a#b", "a%3Fb", "50%", "a b", "é漢字", "a&b;c=d", "it's", "a@b:c", "a+b", "%(x)s"]


def test_runs_are_recorded_beside_them_unless_somebody_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("runs") == f"sqlite:///{tmp_path.resolve() / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri("runs") == "http://server:5000"
    assert tracking_uri("runs", "sqlite:///x.db?timeout=9") == f"sqlite:///{tmp_path.resolve() / 'x.db'}?timeout=9"


def test_of_runs_at_a_url_the_database_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path))
    one, other = (Path(tracking_uri(f"s3://bucket/{name}").removeprefix("sqlite:///")) for name in "ab")
    assert one.name == "mlflow.db" and one.is_relative_to(tmp_path.resolve()) and one != other


@pytest.mark.parametrize("name", NAMES)
def test_a_database_lies_where_its_path_says_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = tmp_path / "root" / name
    root.mkdir(parents=True)
    uri = tracking_uri(root)
    path = root.resolve() / "mlflow.db"
    assert sqlite_path(uri) == path and tracking_uri("elsewhere", uri) == uri
    optuna.create_study(storage=sqlite_uri(root / "studies.db"), study_name="x")
    assert (root / "studies.db").is_file()
    path.touch()
    assert sorted(item.name for item in root.iterdir()) == ["mlflow.db", "studies.db"]
    assert [item.name for item in root.parent.iterdir()] == [name] and list(Path.cwd().iterdir()) == []


def test_mlflow_opens_the_database_of_a_root_with_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.tracking.sweep import SweepTracker

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "a?b#c%41 é" / "runs"
    tracker = SweepTracker("tracked", "id", root, None)
    address = tracker.open_parent("a test")
    file = tmp_path / "file.txt"
    file.write_text("kept")
    tracker.client.log_artifact(address.parent_run_id, str(file))
    assert (root / "mlflow.db").is_file()
    assert [path.read_text() for path in root.rglob("file.txt")] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a?b#c%41 é", "file.txt"]
    assert MlflowClient(tracking_uri(root)).get_experiment_by_name("tracked") is not None


def test_a_tilde_is_the_home_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = elsewhere / "home"
    monkeypatch.setenv("HOME", str(home))
    assert sqlite_path("sqlite:///~/mlflow.db") == home / "mlflow.db"
    assert tracking_uri("~/runs") == f"sqlite:///{home.resolve()}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/mlflow.db")
    assert tracking_uri("runs") == f"sqlite:///{home.resolve()}/mlflow.db"
    table = elsewhere / "runs.csv"
    table.write_text("params,psnr\n" + "".join(f"{10**k},{20 + k}.{k % 3}\n" for k in range(3, 9)))
    assert main(["fit", str(table), "--y", "psnr", "--out=~/law"]) == 0
    assert (home / "law" / "report.html").is_file() or any((home / "law").iterdir())
    assert not (elsewhere / "~").exists()


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:mlruns", "file:///mlruns", "~/mlruns"])
def test_a_store_of_plain_files_is_refused_in_one_line_with_the_way_on(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"migrate-filestore.*unset MLFLOW_TRACKING_URI"):
        tracking_uri("runs")
    for words in (["fit", "mlflow:x", "--y", "psnr"], ["ui"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "mlflow migrate-filestore" in said and said.count("\n") == 1
    assert main(["doctor", "--json"]) == 1
    assert any("migrate-filestore" in item["remedy"] for item in json.loads(capsys.readouterr().out)["missing"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match=r"migrate-filestore.*leave the URI out"):
        tracking_uri("runs", uri)


def test_other_stores_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("databricks", "databricks://profile", "postgresql://host/db", "uc:profile", "http://host"):
        assert tracking_uri("runs", uri) == uri
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert tracking_uri("runs", "mlruns") == "mlruns"

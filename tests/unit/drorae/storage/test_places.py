"""Where things are where nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.storage.places import default_tracking_uri


def test_runs_are_recorded_beside_them_unless_the_environment_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri("runs") == f"sqlite:///{tmp_path.resolve() / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert default_tracking_uri("runs") == "http://server:5000"


def test_of_runs_at_a_url_the_database_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path))
    one, other = (Path(default_tracking_uri(f"s3://bucket/{name}").removeprefix("sqlite:///")) for name in "ab")
    assert one.name == "mlflow.db" and one.is_relative_to(tmp_path.resolve()) and one != other

"""Where MLflow is: found, and refused where it could not work."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.errors import UserError
from sweeps.tracking.client import check_nodes, resolve_uri


def test_where_runs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/other.db"
    assert resolve_uri("http://127.0.0.1:5000", Path("runs")) == "http://127.0.0.1:5000"


def test_a_password_in_the_address_and_sqlite_between_machines_are_refused(tmp_path: Path) -> None:
    for uri in (
        "https://me:secret@tracking.example/",
        "https://tracking.example/?token=secret",
        "postgresql://me:secret@host/db",
    ):
        with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as raised:
            resolve_uri(uri, tmp_path)
        assert "secret" not in str(raised.value)
    check_nodes("sqlite:///x.db", ["10.0.0.1", "10.0.0.1"])
    check_nodes("http://server:5000", ["10.0.0.1", "10.0.0.2"])
    with pytest.raises(UserError, match="mlflow server"):
        check_nodes("sqlite:///x.db", ["10.0.0.1", "10.0.0.2"])

"""Where MLflow is: found, and refused where it could not work."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from drorae.errors import UserError
from sweeps.tracking.client import HandedOver, Store, check_nodes, complaint, resolve_uri


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


def test_why_a_store_does_not_answer_is_said_however_long_the_chain_of_errors(tmp_path: Path) -> None:
    store = Store("http://tracking.example:5000")
    error = MlflowException(
        "API request to http://tracking.example:5000/api/2.0/mlflow/runs/search failed with exception "
        "HTTPConnectionPool(host='tracking.example', port=5000): Max retries exceeded with url: "
        "/api/2.0/mlflow/runs/search (Caused by ResponseError('too many 500 error responses'))"
    )
    line = store.away(error)
    assert "500" in line and "\n" not in line
    assert complaint(line) == "MLflow at http://tracking.example:5000 does not answer"
    assert "500 != 200" in store.away(MlflowException("API request to endpoint /x failed with error code 500 != 200."))
    assert complaint("half as many images at once") == ""


def test_nothing_is_sent_once_it_is_handed_over(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    store.hand_over()
    with pytest.raises(HandedOver):
        store.client.search_experiments()
    assert not (tmp_path / "mlflow.db").exists()

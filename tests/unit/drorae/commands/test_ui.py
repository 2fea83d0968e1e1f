"""The command that opens the browser of runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from drorae.commands.main import main


def test_ui_starts_mlflow_on_the_store(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs" / "mlflow.db").touch()
    for name in ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"):
        monkeypatch.setenv(name, "false")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["ui", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there" in capsys.readouterr().err and not started
    main(["ui", "--port", "5123"])
    store = f"sqlite:///{elsewhere.resolve() / 'runs' / 'mlflow.db'}"
    wanted = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", "5123"]
    assert started[0][1 : len(wanted) + 1] == wanted
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == os.environ["MLFLOW_REGISTRY_STORE_URI"] == store
    # Neither those who list processes nor those who read the screen learn a password.
    capsys.readouterr()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://alice:s3cret@host/db")
    main(["ui", "--port", "5123"])
    assert "s3cret" not in str(started) + capsys.readouterr().err
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "postgresql://alice:s3cret@host/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert main(["ui"]) == 2

"""What tests look up in an MLflow store."""

from __future__ import annotations

import socket

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from drorae.config import TrialConfig, config_hash
from sweeps.tracking.client import RunAddress


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

"""A store that tests record in."""

from __future__ import annotations

import pytest

from sweeps.tracking.sweep import SweepTracker


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepTracker:
    root = tmp_path_factory.mktemp("runs")
    tracker = SweepTracker("tracked", "id", root, f"sqlite:///{root}/mlflow.db")
    tracker.open_parent("a test")
    return tracker

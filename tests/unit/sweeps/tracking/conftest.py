"""A store that tests record in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.tracking.sweep import SweepTracker


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> SweepTracker:
    root = tmp_path_factory.mktemp("runs")
    tracker = SweepTracker("tracked", "id", root, new_store(root))
    tracker.open_parent("a test")
    return tracker

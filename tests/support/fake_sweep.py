"""Sweeps of the stand-in trials, tracked in a SQLite store of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from records import empty_records

from drorae.config import Runtime
from sweeps.driver.run import SweepOutcome, run_sweep
from sweeps.spec import SweepSpec


def sweep(spec: SweepSpec, root: Path, **settings: Any) -> SweepOutcome:
    """Runs a sweep in `root`, on the Ray session that is there."""
    fake: dict[str, Any] = {"run_trial": "fake_trial:run_trial", "prepare": "fake_trial:prepare"}
    uri = f"sqlite:///{empty_records(root)}"
    return run_sweep(spec, root=root, runtime=Runtime(cache_dir=str(root)), tracking_uri=uri, **fake, **settings)

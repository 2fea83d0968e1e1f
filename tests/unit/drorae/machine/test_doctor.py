"""What this machine has, and what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drorae.config import Runtime
from drorae.machine.doctor import examine


def test_what_is_there_is_measured(tmp_path: Path) -> None:
    (tmp_path / "cache" / "arrays").mkdir(parents=True)
    (tmp_path / "cache" / "arrays" / "x.bin").write_bytes(bytes(5_000_000))
    found = examine(Runtime(cache_dir=str(tmp_path / "cache")), tmp_path / "runs")
    assert found["cache"]["exists"] and found["cache"]["gb"] == {"arrays": 0.005}
    assert found["packages"]["numpy"] == np.__version__
    assert found["runs"]["directory"] == str(tmp_path / "runs") and found["runs"]["free_gb"] > 0
    assert found["mlflow"] == {"uri": f"sqlite:///{tmp_path.resolve() / 'runs' / 'mlflow.db'}", "exists": False}
    assert not any(item["essential"] for item in found["missing"])
    assert json.loads(json.dumps(found)) == found


def test_a_cache_that_is_not_there_yet_is_no_trouble(tmp_path: Path) -> None:
    cache = examine(Runtime(cache_dir=str(tmp_path / "none")), tmp_path)["cache"]
    assert not cache["exists"] and cache["gb"] == {} and cache["free_gb"] > 0 and not (tmp_path / "none").exists()


def test_downloads_that_are_missing_name_their_place_and_are_not_essential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    missing = {item["what"]: item for item in examine(Runtime(), tmp_path)["missing"]}
    for what in ("inception weights, for rfid_inception", "VGG16 weights, for LPIPS"):
        assert not missing[what]["essential"] and str(tmp_path / "hub" / "checkpoints") in missing[what]["remedy"]

"""Where a sweep says its results are."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.storage.remote import Remote
from sweeps.driver.outcome import SweepOutcome
from sweeps.folder.mirror import Mirror


def test_results_are_where_everybody_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path))
    here = SweepOutcome(tmp_path, tmp_path / "trials.csv", {}, "", "")
    assert here.place == str(tmp_path)
    here.fetch_picture("trials/a")
    mirror = Mirror(Remote("s3://bucket/runs/mine"), "driver")
    assert SweepOutcome(mirror.local, tmp_path / "trials.csv", {}, "", "", "", mirror).place == "s3://bucket/runs/mine"

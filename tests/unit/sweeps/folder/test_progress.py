"""How far trials are and what they cost, by their workers' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.storage.files import write_json
from sweeps.folder.progress import Cost, RunningTrial, read_cost, read_progress


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "\udcff"])
def test_a_file_that_says_nothing_is_no_progress(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "progress.json").write_text(content, errors="surrogateescape")
    assert read_progress(tmp_path) == {} and read_cost(tmp_path) == Cost()


def test_costs_add_up(tmp_path: Path) -> None:
    write_json(tmp_path / "progress.json", {"seconds": 10, "cpu_hours": 0.5, "phase": "phase2"})
    assert read_cost(tmp_path) == Cost(10.0, 0.5, 0.0)
    assert read_cost(tmp_path) + Cost(5.0, 1.0, 2.0) == Cost(15.0, 1.5, 2.0)


def test_a_trial_is_shown_as_its_worker_has_it() -> None:
    assert RunningTrial.from_progress("a", {}) == RunningTrial("a", "starting", 0, 0)
    noted = {"phase": "prepare", "note": "encoding", "done": 3.0, "total": 10.0}
    assert RunningTrial.from_progress("a", noted).note == "encoding 3 of 10"
    assert RunningTrial.from_progress("a", noted | {"total": 1.0}).note == "encoding", "one part needs no count"
    steps = {"phase": "phase2", "step": 5.0, "total_steps": 10.0, "loss": 0.5, "images_per_second": 9.0}
    assert RunningTrial.from_progress("a", steps) == RunningTrial("a", "phase2", 5, 10, "", 0.5, 9.0)

"""A trial's folder: what it says of the trial, and what damage in it means."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from drorae import __version__
from drorae.config import PRESETS, load_config
from drorae.errors import Notice, UserError
from drorae.trial import folder
from drorae.trial.folder import (
    BROKEN,
    TrialStatus,
    Use,
    error_file,
    error_files,
    files_for,
    read_outcome,
    read_tree,
    ready_trial,
    set_damaged_aside,
    write_ending,
    write_tree,
)
from drorae.trial.result import TrialResult, read_result

RESULT_TREE = {
    "config_hash": "abc", "status": "unconverged", "variant": "energy", "expert_hidden_dim": 8, "num_layers": 12,
    "seed": 0, "fusion_params": 1, "fusion_params_paper": 1, "metrics": {"psnr": 20.0}, "baseline": {"psnr": 19.0},
}  # fmt: skip


def test_a_tree_comes_back_without_its_schema(tmp_path: Path) -> None:
    write_tree(tmp_path, folder.PROGRESS, {"done": 3})
    assert read_tree(tmp_path, folder.PROGRESS) == {"done": 3}
    assert json.loads((tmp_path / "progress.json").read_text()) == {"schema": 1, "drorae": __version__, "done": 3}


def test_files_that_this_version_cannot_read_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / folder.INPUTS
    with pytest.raises(FileNotFoundError):
        read_tree(tmp_path, folder.INPUTS)
    for damaged, said in (("{", "line 1"), ("[1]", "not a JSON object"), ("", "Expecting value")):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=said):
            read_tree(tmp_path, folder.INPUTS)
    path.write_text('{"schema": 99}')
    with pytest.raises(UserError, match="inputs.json: written by a newer drorae"):
        read_tree(tmp_path, folder.INPUTS)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_tree(tmp_path, folder.INPUTS)


def test_the_outcome_is_the_result_or_else_how_the_trial_ended(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) == {"status": TrialStatus.MISSING, "reason": ""}
    write_ending(tmp_path, TrialStatus.FAILED, "no room")
    assert read_outcome(tmp_path) == {"status": TrialStatus.FAILED, "reason": "no room"}
    write_ending(tmp_path, TrialStatus.PRUNED, "worse than others")
    assert read_outcome(tmp_path) == {"status": TrialStatus.PRUNED, "reason": "worse than others"}
    write_tree(tmp_path, folder.RESULT, RESULT_TREE)
    found = read_outcome(tmp_path)
    assert found == RESULT_TREE and found["status"] is TrialStatus.UNCONVERGED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": [1]}, "not a trial's result"),
        ({"metrics": {"psnr": "high"}}, "could not convert"),
        ({"status": "fine"}, "'fine' is not a valid TrialStatus"),
        ({"seed": None}, "no seed"),
    ],
)
def test_a_damaged_result_counts_as_none_and_makes_room(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    tree = {name: value for name, value in (RESULT_TREE | change).items() if value is not None}
    write_tree(tmp_path, folder.RESULT, tree)
    found = read_outcome(tmp_path)
    assert (
        found["status"] == TrialStatus.MISSING and said in found["reason"] and "run the sweep again" in found["reason"]
    )
    with pytest.warns(Notice, match="result.json"):
        set_damaged_aside(tmp_path)
    assert read_outcome(tmp_path)["reason"] == "" and len(list(tmp_path.iterdir())) == 1
    set_damaged_aside(tmp_path)


def test_another_attempt_begins_without_what_the_last_one_failed_of(tmp_path: Path) -> None:
    write_ending(tmp_path, TrialStatus.FAILED, "no room")
    for attempt in (10, 2):
        error_file(tmp_path, attempt).write_text("Traceback")
    assert [path.name for path in error_files(tmp_path)] == ["error-002.txt", "error-010.txt"]
    ready_trial(tmp_path, PRESETS["smoke"])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert load_config(tmp_path / "config.json") == PRESETS["smoke"]


def test_files_are_found_by_what_they_are_for() -> None:
    assert set(files_for(Use.STATE)) == {"config.json", "result.json", "failure.json", "pruned.json", "progress.json"}
    assert set(files_for(Use.STATE)) < set(files_for(Use.STATE | Use.DRAWN))


@pytest.mark.parametrize(("value", "status"), [(math.nan, "nonfinite"), (-math.inf, "nonfinite"), (20.0, "finished")])
def test_a_metric_that_is_no_number_is_no_finished_trial(tmp_path: Path, value: float, status: str) -> None:
    result = TrialResult("abc", TrialStatus.FINISHED, "energy", 8, 12, 0, 1, 2, {"psnr": value, "ssim": 0.5})
    write_tree(tmp_path, "result.json", asdict(result))
    outcome, found = read_outcome(tmp_path), read_result(tmp_path)
    assert outcome["status"] == status and found is not None and found.status == status
    assert outcome["reason"] == ("" if status == "finished" else f"psnr is {value}")


def test_endings_come_back_and_those_of_former_versions_too(tmp_path: Path) -> None:
    for status in (*BROKEN, TrialStatus.PRUNED):
        directory = tmp_path / status
        directory.mkdir()
        write_ending(directory, status, "why")
        assert read_outcome(directory) == {"status": status, "reason": "why"}
    (tmp_path / "failure.json").write_text('{"schema": 1, "reason": "no luck"}')
    assert read_outcome(tmp_path) == {"status": "failed", "reason": "no luck"}

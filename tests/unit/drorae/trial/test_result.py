"""A trial's result: what is written comes back, what is damaged is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.trial.folder import TrialStatus, read_outcome, write_tree
from drorae.trial.result import TrialResult, add_metrics, read_result


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match="run the trial again"):
        read_result(tmp_path)


def test_a_result_that_was_written_comes_back(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    result = TrialResult(
        "abc", TrialStatus.DIVERGED, "energy", 8, 12, 0, 1, 2, {"psnr": 20.0}, reason="loss nan at step 3"
    )
    write_tree(tmp_path, "result.json", asdict(result))
    found = read_result(str(tmp_path))
    assert found == result and found is not None and found.status is TrialStatus.DIVERGED


def test_a_result_of_before_gains_is_read(tmp_path: Path) -> None:
    tree = asdict(TrialResult("abc", TrialStatus.FINISHED, "energy", 8, 12, 0, 1, 2, {"psnr": 20.0}))
    del tree["gain"]
    (tmp_path / "result.json").write_text(json.dumps({"schema": 1, "drorae": "0.1.0", **tree}))
    found = read_result(tmp_path)
    assert found is not None and found.gain == {} and read_outcome(tmp_path)["metrics"] == {"psnr": 20.0}


def test_results_of_older_versions_are_read_with_their_status(tmp_path: Path) -> None:
    now = asdict(TrialResult("abc", TrialStatus.UNCONVERGED, "energy", 8, 12, 0, 1, 2, {"psnr": 20.0}))
    assert "loss_tail_drop" not in now
    write_tree(tmp_path, "result.json", now | {"loss_tail_drop": 0.07, "reason": "training loss still fell by 7.0%"})
    found = read_result(tmp_path)
    assert found is not None and found.status is TrialStatus.UNCONVERGED and found.metrics == {"psnr": 20.0}


@pytest.mark.parametrize("text", ["{}", "[]", '{"status": "fine"}', '{"status": "finished", "colour": 1}'])
def test_what_is_no_result_is_named_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result.json: not a trial's result") as raised:
        read_result(tmp_path)
    assert "\n" not in str(raised.value)


def test_metrics_of_others_join_those_of_a_result_of_any_version(tmp_path: Path) -> None:
    tree = asdict(TrialResult("abc", TrialStatus.FINISHED, "energy", 8, 12, 0, 1, 2, {"psnr": 20.0, "geneval": 0.1}))
    del tree["provenance"]
    (tmp_path / "result.json").write_text(json.dumps({"schema": 1, "drorae": "0.1.0", **tree, "loss_tail_drop": 0.0}))
    before = read_result(tmp_path)
    add_metrics(tmp_path, {"geneval": 0.5, "geneval_se": 0.02}, {"note.geneval": "results.jsonl"})
    found = read_result(tmp_path)
    assert before is not None and found == replace(
        before,
        metrics={"psnr": 20.0, "geneval": 0.5, "geneval_se": 0.02},
        provenance={"note.geneval": "results.jsonl"},
    )
    assert json.loads((tmp_path / "result.json").read_text())["loss_tail_drop"] == 0.0

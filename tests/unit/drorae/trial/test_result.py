"""A trial's result: what is written comes back, what is damaged is named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.trial.folder import TrialStatus, write_tree
from drorae.trial.result import TrialResult, read_result


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


@pytest.mark.parametrize("text", ["{}", "[]", '{"status": "fine"}', '{"status": "finished", "colour": 1}'])
def test_what_is_no_result_is_named_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result.json: not a trial's result") as raised:
        read_result(tmp_path)
    assert "\n" not in str(raised.value)

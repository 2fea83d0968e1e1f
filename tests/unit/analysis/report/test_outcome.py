"""Fits of several metrics with their report, and the lines that a terminal shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import sweep

from analysis.report.outcome import FitOutcome, fit_table
from drorae.errors import UserError


def test_text_says_what_was_left_out(outcome: FitOutcome) -> None:
    assert "psnr = " in outcome.text and "95% CI" in outcome.text
    assert "5 configurations, 9 runs" in outcome.text
    assert "left out: row 4 (11abcdef): status diverged" in outcome.text
    assert all(line.isascii() for line in outcome.text.splitlines())


def test_nothing_is_written_when_one_metric_cannot_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fit_table(sweep(), "params", ["psnr", "lpips"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder it can write to"):
        fit_table(sweep(), "params", ["psnr"], out=tmp_path / "file")

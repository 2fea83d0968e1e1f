"""Fits of several metrics with their report, and the lines that a terminal shows."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import sweep

from analysis.report.figures import law_figure, residual_figure
from analysis.report.outcome import FitOutcome, fit_table
from analysis.report.write import headline
from drorae.errors import UserError


def test_text_says_what_was_left_out(outcome: FitOutcome) -> None:
    assert "psnr = " in outcome.text and "95% CI" in outcome.text
    assert "5 configurations, 9 runs" in outcome.text
    assert "left out: row 4 (11abcdef): status diverged" in outcome.text
    assert all(line.isascii() for line in outcome.text.splitlines())


def test_a_metric_in_training_s_features_is_marked_everywhere_and_never_heads_a_report(tmp_path: Path) -> None:
    frame = sweep().assign(looked_through="dinov2=tokenizer")
    found = fit_table(frame, "params", ["rfd_dinov2", "psnr"], out=tmp_path)
    mark = "in the tokenizer's own features"
    assert [tree["y"] for tree in found.trees] == ["psnr", "rfd_dinov2"] and found.trees[1]["mark"] == mark
    assert "mark" not in found.trees[0] and f"\nrfd_dinov2 ({mark}) = " in found.text
    page, html = (unescape(found.paths[name].read_text()) for name in ("markdown", "html"))
    assert page.startswith(f"# psnr, rfd_dinov2 ({mark}) against params\n\n**PSNR")
    assert all(f"Fréchet distance (DINOv2 features), {mark}" in text for text in (page, html))
    # Every claim, row and note that names it.
    plain = [line for line in page.splitlines() if "rfd_dinov2" in line and f"rfd_dinov2 ({mark})" not in line]
    assert all("config_hash" in line or (line.startswith("|") and "| x" in line) for line in plain), plain
    figures = law_figure(found.analyses), residual_figure(found.analyses)
    assert [mark in axes.get_ylabel() for figure in figures for axes in figure.axes] == [False, True] * 2
    assert all(mark in verdict.claim for verdict in found.analyses[1].verdicts[:2])
    # Tables that do not say.
    assert mark not in fit_table(sweep(), "params", ["rfd_dinov2"]).text


def test_nothing_is_written_when_one_metric_cannot_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fit_table(sweep(), "params", ["psnr", "lpips"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder it can write to"):
        fit_table(sweep(), "params", ["psnr"], out=tmp_path / "file")


@pytest.mark.parametrize("law", ["log-linear", "linear"])
@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e6, 1e15])
@pytest.mark.parametrize("level", [0.0, 1e5])
def test_lines_and_pages_show_digits_whatever_the_scale(law: str, unit: float, level: float) -> None:
    """`level`: how many times its own range the metric lies away from zero."""
    rng = np.random.default_rng(1)
    x = np.geomspace(1e6, 1e9, 12)
    rise = np.log10(x) / 9 if law == "log-linear" else x / 1e9
    y = unit * (level + rise + 0.05 * rng.normal(size=12))
    outcome = fit_table(pd.DataFrame({"params": x, "rfid": y}), "params", ["rfid"], law)
    line, number = outcome.analyses[0].line, r"(-?[\d.]+(?:e[+-]?\d+)?)"
    low, high = line.slope_ci95
    found = re.search(rf"slope {number} per \w+, 95% CI {number} \.\. {number} ", outcome.text)
    assert found is not None
    shown = [float(item) for item in found.groups()]
    assert shown[0] == pytest.approx(line.slope, abs=0.02 * (high - low))
    assert shown[2] - shown[1] == pytest.approx(high - low, rel=0.05)
    found = re.search(rf"rfid = {number} [+-] {number} ", outcome.text)
    assert found is not None
    ends = line.intervals["intercept"]
    assert float(found[1]) == pytest.approx(line.intercept, abs=0.05 * (ends.high - ends.low))
    page = headline(outcome.analyses[0]).replace("\N{MINUS SIGN}", "-")
    found = re.search(rf"95% CI {number} … {number}", page)
    assert found is not None
    assert float(found[2]) - float(found[1]) == pytest.approx(high - low, rel=0.05)


TWELVE = np.geomspace(1, 1e3, 12)


@pytest.mark.parametrize("law", ["log-linear", "linear", "power-offset"])
@pytest.mark.parametrize("sizes", [1e-27 * TWELVE, 1e15 * TWELVE, 9e23 * TWELVE, np.append(1e6 * TWELVE[:-1], 1e21)])
@pytest.mark.parametrize("unit", [1e-99, 9e24])
@pytest.mark.filterwarnings("error")
def test_sizes_and_values_far_from_one_are_fitted_without_a_warning(law: str, sizes: np.ndarray, unit: float) -> None:
    y = unit * (1 - 0.1 * np.log10(TWELVE) + 0.01 * np.random.default_rng(2).normal(size=12))
    found = fit_table(pd.DataFrame({"params": sizes, "rfid": y}), "params", ["rfid"], law).analyses[0]
    assert np.all(np.isfinite(found.leading.parameters))
    scale = np.column_stack([np.ones(12), sizes / sizes.max() if law == "linear" else np.log10(sizes)])
    intercept, slope = np.linalg.lstsq(scale, y / unit, rcond=None)[0]
    assert found.line.intercept == pytest.approx(intercept * unit, rel=1e-9)
    assert found.line.slope == pytest.approx(slope * unit / (sizes.max() if law == "linear" else 1), rel=1e-9)


@pytest.mark.parametrize("cell", ["1e400", "1.797e308", "-1.797e308", "1e200", "1e28", "inf"])
@pytest.mark.parametrize("column", ["params", "rfid"])
@pytest.mark.filterwarnings("error")
def test_numbers_out_of_range_are_left_out_with_a_sentence(cell: str, column: str) -> None:
    frame = pd.DataFrame({"params": 1e6 * TWELVE, "rfid": 1 - 0.1 * np.log10(TWELVE) + 0.01 * np.sin(np.arange(12))})
    usual = fit_table(frame.drop(index=5), "params", ["rfid"]).analyses[0].line
    frame = frame.astype(object)
    frame.loc[5, column] = cell
    outcome = fit_table(frame, "params", ["rfid"])
    assert re.search(
        rf"left out: row 6: {column} is .*(not finite|beyond the 1e\+2\d that can be computed)", outcome.text
    )
    assert outcome.analyses[0].line.slope == pytest.approx(usual.slope, rel=1e-12)


def test_a_metric_too_small_to_square_is_refused() -> None:
    frame = pd.DataFrame({"params": 1e6 * TWELVE, "rfid": 1e-120 * (1 + TWELVE)})
    with pytest.raises(UserError, match="nearer to 0 than the 1e-100 that can be computed with: a smaller unit"):
        fit_table(frame, "params", ["rfid"])

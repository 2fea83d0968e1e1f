"""A verdict that is looked at several times: what holds over all looks, and how often it is wrong."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from analysis.inference import analysis
from analysis.inference.analysis import Analysis, analyse
from analysis.inference.looks import NO_SATURATION, TREND, decided

WIDTHS, SEEDS = np.geomspace(1e4, 1e7, 8), 3
FIRST = [0, 7, 4, 2, 5, 1, 3, 6]
LOOKS = (5, 8, 16, 24)
"""Trials that there are at each, as in a sweep of eight sizes and three seeds."""


def analysis_of(x: np.ndarray, y: np.ndarray, seed: np.ndarray | int = 0) -> Analysis:
    return analyse(pd.DataFrame({"params": x, "psnr": y, "seed": seed}), "params", "psnr")


def said(slope: float, bend: float, rng: np.random.Generator) -> str:
    """What a sweep with this truth and scatter .02 ends with."""
    order = [*FIRST, *range(8, 24)]
    x, seed = np.tile(WIDTHS, SEEDS)[order], np.repeat(range(SEEDS), 8)[order]
    decades = np.log10(x) - 5.5
    y = 20 + slope * decades + bend * decades**2 + rng.normal(0, 0.02, len(x))
    for count in LOOKS:
        verdict = decided(analysis_of(x[:count], y[:count], seed[:count]), TREND, len(LOOKS))
        if verdict is not None:
            return verdict.verdict
    return "undecided"


@pytest.mark.parametrize(
    ("slope", "bend", "wrong", "right"),
    [(0.0, 0.0, "supported", ""), (0.05, 0.0, "not supported", "supported"), (0.05, 0.1, "", "not supported")],
)
def test_over_all_looks_a_false_decision_is_as_rare_as_of_one(
    slope: float, bend: float, wrong: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other laws take nine tenths of the time, and only keep verdicts undecided.
    monkeypatch.setattr(analysis, "CANDIDATES", ("log-linear", "log-quadratic"))
    rng, count = np.random.default_rng(3), 60
    found = Counter(said(slope, bend, rng) for _ in range(count))
    # 5% of 60, and two standard errors of such a count.
    assert found[wrong] <= 3 + 3
    assert not right or found[right] >= 0.9 * count


def test_more_looks_ask_for_more_and_never_contradict_the_report() -> None:
    x = np.geomspace(1e4, 1e7, 6)
    y = 20 + 0.1 * np.log10(x) + np.random.default_rng(4).normal(0, 0.06, 6)
    found = analysis_of(x, y)
    once = decided(found, TREND, 1)
    assert once is not None and once.verdict == found.verdicts[0].verdict == "supported"
    assert once.level == "5% for slope and bend over 1 look, 5% each time"
    assert decided(found, TREND, 1000) is None, "its p is no thousandth of 5%"
    flat = analysis_of(x, 20 + np.random.default_rng(1).normal(0, 0.06, 6))
    assert flat.verdicts[0].verdict == "undecided" and decided(flat, TREND, 1) is None


def test_saturation_is_decided_by_its_own_bounds() -> None:
    x = np.geomspace(1, 1e4, 40)
    clean = analysis_of(x, 1 + 0.05 * np.log10(x) + np.random.default_rng(2).normal(0, 1e-4, 40))
    verdict = decided(clean, NO_SATURATION, 4)
    assert verdict is not None and verdict.verdict == "supported" and verdict.claim.startswith("no saturation")
    level = analysis_of(x, 2 - x**-0.5 + np.random.default_rng(2).normal(0, 1e-3, 40))
    bent = decided(level, NO_SATURATION, 4)
    assert bent is not None and bent.verdict == "not supported"
    few = analysis_of(x[::8], 1 + 0.05 * np.log10(x[::8]) + np.random.default_rng(2).normal(0, 1e-2, 5))
    assert decided(few, NO_SATURATION, 4) is None


def test_several_decoders_are_asked_for_new_ones() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"params": size, "decoder.seed": seed, "seed": 0, "psnr": 20 + slope * np.log10(size) + rng.normal(0, 1e-3)}
        for seed, slope in enumerate((0.07, 0.1, 0.13))
        for size in WIDTHS
    ]
    found = analyse(pd.DataFrame(rows), "params", "psnr")
    assert found.draws.deciding is not None
    assert decided(found, TREND, 1) is not None
    assert decided(found, TREND, 20) is None, "the slope's 99.75% interval for new decoders, of three, holds zero"


def test_of_layers_the_line_in_them_decides() -> None:
    layers = np.array([1.0, 3, 5, 7, 9, 12])
    frame = pd.DataFrame({"layers": layers, "psnr": 20 + 0.1 * layers + np.random.default_rng(0).normal(0, 0.01, 6)})
    verdict = decided(analyse(frame, "layers", "psnr", "linear"), TREND, 3)
    assert verdict is not None and verdict.claim.startswith("linear: ")

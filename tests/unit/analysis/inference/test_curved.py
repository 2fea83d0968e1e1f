"""Designs that bend: the law that is compared, its differences against the truth, and winners among equals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analysis.inference.curved import bent
from analysis.inference.designs import compare_designs

X = np.geomspace(0.1, 10, 10)


def saturating(floors: dict[str, float], sd: float, seed: int) -> pd.DataFrame:
    """Designs of one shape, each with a floor of its own."""
    rng = np.random.default_rng(seed)
    rows = [(name, x, floor + 0.2 * x**-0.6 + rng.normal(0, sd)) for name, floor in floors.items() for x in X]
    return pd.DataFrame(rows, columns=["variant", "params", "rfid"])


def test_the_law_that_evidence_prefers_is_compared_at_the_sizes_both_have() -> None:
    found = compare_designs(saturating({"a": 0.3, "b": 0.25}, 0.002, 0), "params", "rfid")
    assert found.compared_law != "log-linear" and found.as_json()["compared_law"] == found.compared_law
    levels = [item for item in found.differences if item.what == "level"]
    assert [item.at for item in levels] == pytest.approx([0.1, 1.0, 10.0])
    assert all(item.simultaneous95[0] <= 0.05 <= item.simultaneous95[1] for item in levels)
    said = {item.claim: item.verdict for item in found.verdicts}
    assert said["b is better than a at 1"] == "supported"
    assert said["one of a and b scales better"] == "undecided"
    assert len(said) == len(found.verdicts) == 4
    assert found.compared_law in found.text()
    # Lines through the same points: no law of the data, and compared only where nothing bends.
    straight = saturating({"a": 0.3, "b": 0.25}, 0.0, 0)
    straight["rfid"] = 0.3 - 0.1 * np.log10(straight["params"]) + np.random.default_rng(1).normal(0, 0.01, 20)
    assert compare_designs(straight, "params", "rfid").compared_law == "log-linear"


def test_sizes_that_only_one_design_has_make_no_difference_of_slopes() -> None:
    """One law, other ranges: slopes of lines differ by the bend alone."""
    frame = saturating({"a": 0.3, "b": 0.3}, 0.001, 2)
    frame.loc[frame["variant"] == "b", "params"] *= 5
    clean = 0.3 + 0.2 * frame["params"] ** -0.6
    frame["rfid"] = clean + np.random.default_rng(3).normal(0, 0.001, len(frame))
    found = compare_designs(frame, "params", "rfid")
    assert abs(found.lines[0].slope - found.lines[1].slope) > 0.05
    slope = next(item for item in found.differences if item.what == "slope")
    assert slope.ci95[0] <= 0 <= slope.ci95[1] and abs(slope.difference) < 0.01


def test_equal_curves_have_a_winner_no_more_often_than_the_level_says() -> None:
    won = sum(
        any(item.verdict == "supported" for item in compare_designs(
            saturating({"a": 0.3, "b": 0.3}, 0.005, 100 + draw), "params", "rfid").verdicts)
        for draw in range(40)
    )  # fmt: skip
    assert won / 40 <= 0.06 + 2 * (0.06 * 0.94 / 40) ** 0.5


def test_bend_is_the_f_test_of_statsmodels() -> None:
    frame = saturating({"a": 0.3, "b": 0.25}, 0.05, 4).assign(u=lambda table: np.log10(table["params"]))
    full = smf.ols("rfid ~ C(variant) * u + C(variant):I(u**2)", frame).fit()
    p = full.compare_f_test(smf.ols("rfid ~ C(variant) * u", frame).fit())[1]
    groups = [table for _, table in frame.groupby("variant")]
    assert bent([(table["u"].to_numpy(), table["rfid"].to_numpy()) for table in groups]) == pytest.approx(p)
    assert bent([(np.arange(3.0), np.arange(3.0) ** 2)]) == 1.0

"""Evidence for and against a law, against statsmodels and the textbook."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from calibration.broken import rates
from tables import saturating, uneven

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.evidence import (
    BackTest,
    HeldOutSize,
    back_test,
    compare_laws,
    curvature,
    influence,
    lack_of_fit,
)
from analysis.inference.predict import forecast
from analysis.inference.verdicts import no_saturation, predicts_its_largest, trend, verdicts
from analysis.laws.intervals import points
from analysis.report.trees import fit_tree
from drorae.errors import UserError


def test_back_test_is_a_fit_to_the_small_asked_for_the_large(paper: Analysis) -> None:
    x, y = paper.line.sample.x[:, 0], paper.line.sample.y
    design = sm.add_constant(np.log10(x))
    frame = sm.OLS(y[:5], design[:5]).fit().get_prediction(design[5:]).summary_frame(alpha=0.05)
    test = next(item for item in paper.back_tests if item.law == "log-linear")
    got = [(item.predicted, item.low, item.high) for item in test.held_out]
    np.testing.assert_allclose(got, frame[["mean", "obs_ci_lower", "obs_ci_upper"]], rtol=1e-6)


def test_influence_is_that_of_statsmodels(paper: Analysis) -> None:
    line = paper.comparison.find("log-linear")
    assert line is not None
    reference = sm.OLS(line.y, sm.add_constant(np.log10(line.x[:, 0]))).fit().get_influence()
    rows = influence(line)
    np.testing.assert_allclose([row.leverage for row in rows], reference.hat_matrix_diag, rtol=1e-8)
    np.testing.assert_allclose([row.cook for row in rows], reference.cooks_distance[0], rtol=1e-8)
    np.testing.assert_allclose([row.left_out for row in rows], reference.resid_press, rtol=1e-8)


def test_lack_of_fit_is_the_textbook_f() -> None:
    rng = np.random.default_rng(0)
    rows = [(10.0**k, k, seed, k**1.5 + rng.normal(0, 0.2)) for k in range(6) for seed in range(4)]
    frame = pd.DataFrame(rows, columns=["params", "expert_hidden_dim", "seed", "psnr"])
    found = analyse(frame, "params", "psnr")
    line = found.comparison.find("log-linear")
    assert line is not None
    u = np.log10(frame["params"])
    full = sm.OLS(frame["psnr"], pd.get_dummies(u).astype(float)).fit()
    f, p, _ = full.compare_f_test(sm.OLS(frame["psnr"], sm.add_constant(u)).fit())
    got = lack_of_fit(found.line.sample, line)
    assert got is not None and (got.f, got.p) == (pytest.approx(f, rel=1e-6), pytest.approx(p, rel=1e-4))
    assert found.verdicts[0].verdict == "not supported"


def test_aicc_finds_an_offset_where_the_data_show_it() -> None:
    found = saturating(30, 0.005, 1)
    assert found.preferred.name == "power-offset"
    assert found.delta(found.fits[-1]) >= 4
    assert trend(found).verdict == "not supported"
    assert no_saturation(found).verdict == "not supported"


def test_horizon_is_never_far(paper: Analysis) -> None:
    limits = paper.comparison.horizon
    span = np.log10(113439756 / 2480652)
    assert 0.3 - 1e-9 <= limits.decades <= min(1.0, span / 2)
    short = compare_laws(points(np.array([1.0, 1.2, 1.4, 1.6]), np.array([4, 3.1, 2.2, 1.0])))
    assert short.horizon.decades == pytest.approx(0.3 * np.log10(1.6))


def _decades(n: int, low: float, high: float, bent: float = 0.0, broken: float = 0.0) -> float:
    """The horizon of a line with little scatter, with a quadratic term or a jump in the largest third."""
    u = np.linspace(low, high, n)
    wiggle = np.random.default_rng(1).normal(0, 1e-3, n)
    y = 1 - 0.05 * u + bent * u**2 + broken * (np.arange(n) >= n - n // 3) + wiggle
    return compare_laws(points(10**u, y)).horizon.decades


@pytest.mark.parametrize(("n", "low", "high"), [(12, 0, 2), (12, 5, 8), (30, 0, 2)])
def test_the_horizon_heeds_what_the_data_say_against_it(n: int, low: float, high: float) -> None:
    assert _decades(n, low, high) >= 0.3 - 1e-9
    assert 0 < _decades(n, low, high, bent=0.002) <= 0.15 + 1e-9
    assert _decades(n, low, high, broken=0.2) == 0
    assert 0 < _decades(n, low, low + 0.8) <= 0.24 + 1e-9


def test_after_a_failed_back_test_the_horizon_is_the_data() -> None:
    u = np.linspace(0, 3, 12)
    y = 1 - 0.05 * u - 0.2 * (u > 2) + np.random.default_rng(0).normal(0, 1e-3, 12)
    found = compare_laws(points(10**u, y))
    assert verdicts(found)[2].verdict == "not supported"
    assert (found.horizon.low, found.horizon.high) == (pytest.approx(1), pytest.approx(1000))
    with pytest.raises(UserError, match="smaller sizes did not predict the larger"):
        forecast(found, 1001)
    assert not forecast(found, 1001, extrapolate=True).trusted


@pytest.mark.parametrize(
    ("count", "misses", "word"),
    [(80, 0, "supported"), (80, 4, "supported"), (80, 7, "supported"), (80, 8, "not supported"),
     (20, 1, "supported"), (20, 4, "not supported"), (3, 0, "supported"), (3, 1, "undecided"), (3, 2, "not supported"),
     (1, 1, "not supported"), (10, 1, "supported"), (10, 3, "not supported")],
)  # fmt: skip
def test_a_back_test_is_scored_by_its_count(count: int, misses: int, word: str) -> None:
    x = np.geomspace(1, 1000, 4 + count)
    found = compare_laws(points(x, 1 - 0.05 * np.log10(x) + np.random.default_rng(0).normal(0, 0.01, 4 + count)))
    rows = tuple(HeldOutSize(float(k), 0.0 if k < misses else 1.0, 1.0, 0.99, 1.01) for k in range(count))
    # What `cached_property` would compute.
    found.__dict__["back_tests"] = (BackTest("envelope", 4, rows),)
    verdict = predicts_its_largest(found)
    assert verdict.verdict == word
    assert f"{misses} of {count} missed, chance allows" in verdict.reason


def test_a_calibrated_law_passes_its_back_test_on_many_held_out_points() -> None:
    words = []
    for seed in range(12):
        x = np.geomspace(1, 1000, 240)
        y = 1 - 0.05 * np.log10(x) + np.random.default_rng(seed).normal(0, 0.02, 240)
        found = compare_laws(points(x, y), ("log-linear",))
        words.append(predicts_its_largest(found).verdict)
    assert words.count("supported") >= 10


def test_sizes_stay_together_in_a_back_test() -> None:
    x = np.repeat([1.0, 10, 100, 1000, 1e4], 2)
    tests = back_test(points(x, 1 - 0.1 * np.log10(x) + 0.01 * (-1) ** np.arange(10)), count=3)
    held = [item.x for item in tests[0].held_out]
    assert held == [1e4, 1e4] and tests[0].trained == 8


def test_a_bend_and_a_leave_one_out_slope_are_those_of_the_weighted_laws() -> None:
    rising = uneven()
    middle = rising.groupby("params")["rfid"].transform("mean")
    rising["rfid"] = middle + (rising["rfid"] - middle) * (rising["params"] / 1e5) ** 0.7
    found = analyse(rising, "params", "rfid")
    sample = found.line.sample
    quadratic = next(law for law in fit_tree(found)["laws"] if law["name"] == "log-quadratic")
    bend = curvature(sample)
    assert np.ptp(sample.weights) > 0.5 and bend is not None
    assert [bend.low, bend.high] == pytest.approx(quadratic["parameters"][2]["ci95"], rel=1e-6)
    said = next(item.message for item in found.cautions if item.code in ("curvature", "saturation"))
    assert f"{bend.low:.3g}" in said and f"{bend.high:.3g}" in said
    rest = [i for i in range(8) if i != 7]
    u = np.log10(sample.x[:, 0])
    slopes = np.polyfit(u[rest], sample.y[rest], 1, w=np.sqrt(sample.weights[rest]))
    assert influence(found.line.curve)[7].without[1] == pytest.approx(slopes[0], rel=1e-6)


def test_a_break_beyond_the_data_is_missed_whatever_the_rule_of_trust() -> None:
    rows = rates("turns at 1.1 times the largest size", 12, 0.01, 5, 1)
    assert [(row["decades"], row["rule"].partition(":")[0]) for row in rows] == [
        ("0.1", "horizon"), ("0.1", "before"), ("0.3", "horizon"), ("0.3", "before"),
    ]  # fmt: skip
    assert rows[3]["trusted"] == "1.000" and float(rows[3]["missed of trusted"]) > 0.5

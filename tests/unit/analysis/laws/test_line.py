"""Laws: the paper's own numbers, a certified data set, and agreement with statsmodels and scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from tables import codes, fit, replicated

from analysis.laws.line import fit_line
from analysis.table.files import read_table
from analysis.table.selection import select
from drorae.errors import UserError

PAPER = Path(__file__).resolve().parents[4] / "results" / "paper"

# NIST StRD, data set Norris: (y, x).
NORRIS = """0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6
778.9 777.0 559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 556.0
228.3 228.1 998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2 998.5 999.0
778.9 779.0 10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5"""


@pytest.mark.parametrize(
    ("table", "x", "law", "n", "slope", "intercept", "r2"),
    [
        ("capacity", "params", "log-linear", 8, -0.0564, 0.9194, 0.8605),
        ("layers", "layers", "linear", 12, -0.0062, 0.5620, 0.4843),
        ("pooled", "params", "log-linear", 20, -0.0582, 0.9449, 0.5814),
        ("pooled_once", "params", "log-linear", 19, -0.0557, 0.9273, 0.5642),
    ],
)
def test_papers_tables(table: str, x: str, law: str, n: int, slope: float, intercept: float, r2: float) -> None:
    # The pooled table has one run twice, which the paper counted twice.
    result = fit(read_table(PAPER / f"{table}.csv"), x, law=law, unit="row")
    assert (result.n, result.sample.n) == (n, n)
    assert (round(result.slope, 4), round(result.intercept, 4), round(result.curve.r2, 4)) == (slope, intercept, r2)


def test_papers_capacity_interval_and_what_it_cannot_show() -> None:
    result = fit(read_table(PAPER / "capacity.csv"))
    assert [round(end, 4) for end in result.slope_ci95] == [-0.0790, -0.0337]
    assert "saturation" in codes(result)
    pooled = read_table(PAPER / "pooled.csv")
    assert "repeated-x" in codes(fit(pooled, unit="row"))
    assert fit(pooled).sample.n == 19 and "repeats-without-seeds" in codes(fit(pooled))


def test_nist_norris() -> None:
    numbers = np.array(NORRIS.split(), dtype=float).reshape(36, 2)
    result = fit(pd.DataFrame({"x": numbers[:, 1], "y": numbers[:, 0]}), "x", "y", "linear", "row")
    assert result.slope == pytest.approx(1.00211681802045, rel=1e-9)
    assert result.intercept == pytest.approx(-0.262323073774029, rel=1e-9)
    assert result.curve.r2 == pytest.approx(0.999993745883712, rel=1e-9)
    assert result.curve.residual_sd == pytest.approx(0.884796396144373, rel=1e-9)
    assert result.slope_se == pytest.approx(0.429796848199937e-3, rel=1e-9)


@pytest.mark.parametrize("law", ["log-linear", "linear"])
def test_agrees_with_scipy_and_statsmodels(law: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.uniform(1e5, 5e7, 11)
    y = 300 - 20 * np.log10(x) + rng.normal(0, 3, 11)
    u = np.log10(x) if law == "log-linear" else x
    result = fit(pd.DataFrame({"params": x, "rfid": y}), law=law)
    reference = stats.linregress(u, y)
    assert result.slope == pytest.approx(reference.slope, rel=1e-8)
    assert result.intercept == pytest.approx(reference.intercept, rel=1e-8)
    assert result.curve.r2 == pytest.approx(reference.rvalue**2, rel=1e-8)
    assert result.slope_se == pytest.approx(reference.stderr, rel=1e-6)
    assert result.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    at = np.geomspace(1e4, 1e9, 6)
    exog = np.column_stack([np.ones(6), np.log10(at) if law == "log-linear" else at])
    frame = sm.OLS(y, sm.add_constant(u)).fit().get_prediction(exog).summary_frame(alpha=0.05)
    wanted = frame[["mean", "mean_ci_lower", "mean_ci_upper", "obs_ci_lower", "obs_ci_upper"]].to_numpy().T
    np.testing.assert_allclose(np.array(result.predict(at)), wanted, rtol=1e-6)
    one = result.predict(float(at[0]))
    assert isinstance(one.mean, float)
    assert one.prediction_high == pytest.approx(wanted[4][0], rel=1e-6)


def test_seeds_are_repeats_not_sizes() -> None:
    frame = replicated(np.random.default_rng(1)).sample(frac=1, random_state=np.random.RandomState(3))
    result = fit(frame, y="psnr")
    by_hand = fit(frame.groupby("params", as_index=False)[["psnr"]].mean(), y="psnr")
    assert (result.n, result.sample.n, result.curve.dof) == (15, 5, 3)
    for name in ("slope", "intercept"):
        assert getattr(result, name) == pytest.approx(getattr(by_hand, name), rel=1e-9)
    for name in ("r2", "residual_sd"):
        assert getattr(result.curve, name) == pytest.approx(getattr(by_hand.curve, name), rel=1e-9)
    within = frame.groupby("params")["psnr"].var(ddof=1).mean() ** 0.5
    assert result.seed_sd == pytest.approx(within)
    assert fit(frame, y="psnr", unit="row").curve.dof == 13


def test_configs_that_differ_in_more_than_seed_stay_apart() -> None:
    frame = replicated(np.random.default_rng(2), seeds=2)
    frame["phase2.lr"] = np.where(frame["seed"] == 0, 1e-3, 1e-4)
    frame = pd.concat([frame, frame.assign(seed=frame["seed"] + 2)])
    assert fit(frame, y="psnr").sample.n == 10


@pytest.mark.parametrize("dropped", [0, 4])
def test_repeats_without_a_seed_column_are_repeats(dropped: int) -> None:
    seeded = replicated(np.random.default_rng(2)).iloc[dropped:]
    found, wanted = fit(seeded.drop(columns=["seed"]), y="psnr"), fit(seeded, y="psnr")
    assert found.slope_ci95 == pytest.approx(wanted.slope_ci95)
    assert found.sample.n == wanted.sample.n and found.seed_sd == wanted.seed_sd
    assert "repeats-without-seeds" in codes(found) and "repeats-without-seeds" not in codes(wanted)
    assert fit(seeded.drop(columns=["seed"]), y="psnr", unit="row").n == len(seeded)


def test_the_slope_s_interval_holds_where_rows_without_seeds_repeat_sizes() -> None:
    rng, x = np.random.default_rng(0), np.repeat(np.geomspace(1e5, 1e8, 8), [2] * 7 + [1])
    # The rows are selected once; what is drawn anew is their values.
    runs, held = select(pd.DataFrame({"params": x, "rfid": x}), "params", "rfid"), 0
    for _ in range(300):
        # Configurations scatter about the law, as they do in sweeps, and seeds about their configuration.
        shared = rng.normal(0, 0.1, 8)[np.unique(x, return_inverse=True)[1]]
        y = 1 - 0.05 * np.log10(x) + shared + rng.normal(0, 0.05, 15)
        low, high = fit_line(replace(runs, y=y)).slope_ci95
        held += low <= -0.05 <= high
    assert held >= 277, f"{held} of 300: fewer than 2.1 standard errors below 95%"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2, 4], "at least 4"),
        ([5, 5, 5, 5, 5], [1, 2, 3, 4, 5], "different sizes"),
        ([1, 2, 3, 4, 5], [2, 2, 2, 2, 2], "nothing to fit"),
    ],
)
def test_refuses_what_cannot_be_fitted(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fit(pd.DataFrame({"params": x, "rfid": y, "seed": range(len(x))}), unit="row")
    assert "\n" not in str(caught.value)


def test_many_seeds_of_three_sizes_are_three_configurations() -> None:
    frame = replicated(np.random.default_rng(0), seeds=8)
    with pytest.raises(UserError, match="3 configurations"):
        fit(frame[frame["expert_hidden_dim"] <= 128], y="psnr")


def test_predict_refuses_sizes_without_a_logarithm() -> None:
    with pytest.raises(UserError, match="positive"):
        fit(read_table(PAPER / "capacity.csv")).predict(0.0)


def test_points_on_a_line_have_no_error() -> None:
    x = np.array([1.0, 2, 3, 4, 5])
    exact = fit(pd.DataFrame({"x": x, "y": x}), "x", "y", "linear")
    assert (exact.slope, exact.p_value) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))
    assert exact.slope_ci95 == pytest.approx((1.0, 1.0))

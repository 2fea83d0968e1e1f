"""Predictions at pairs of sizes: against statsmodels, where they are trusted, what they cover."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis.inference.axes import JointAnalysis, analyse_axes
from analysis.inference.surface import back_test_pairs, envelope, forecast_pair, horizon
from drorae.errors import UserError

SIZES = np.array([(n, d) for n in np.geomspace(5e7, 1e10, 4) for d in np.geomspace(1e9, 5e11, 4)])


def chinchilla(pairs: np.ndarray) -> np.ndarray:
    return np.asarray(1.69 + 406.4 * pairs[:, 0] ** -0.34 + 410.7 * pairs[:, 1] ** -0.28)


def found(loss: np.ndarray, second: str = "tokens", seeds: int = 1) -> JointAnalysis:
    table = pd.DataFrame({"params": SIZES[:, 0].repeat(seeds), "tokens": SIZES[:, 1].repeat(seeds), "loss": loss})
    return analyse_axes(table.assign(seed=list(range(seeds)) * len(SIZES)), "params", second, "loss")


def test_the_interval_of_a_plane_is_that_of_statsmodels() -> None:
    logs = np.log10(SIZES)
    loss = 4 - 0.3 * logs[:, 0] - 0.2 * logs[:, 1] + np.random.default_rng(5).normal(0, 0.03, len(SIZES))
    made = forecast_pair(found(loss, "tokens:log"), (3e8, 2e10))
    fitted = sm.OLS(loss, sm.add_constant(logs)).fit()
    at = fitted.get_prediction(np.array([[1, np.log10(3e8), np.log10(2e10)]])).summary_frame()
    plane = next(item for item in made.laws if item.law == "log-plane")
    assert plane.value == pytest.approx(at["mean"][0])
    assert plane.of_law == pytest.approx(at[["mean_ci_lower", "mean_ci_upper"]].to_numpy()[0])
    assert plane.of_run == pytest.approx(at[["obs_ci_lower", "obs_ci_upper"]].to_numpy()[0])


def test_means_of_seeds_are_predicted_closer_than_runs() -> None:
    rng = np.random.default_rng(6)
    here = found(chinchilla(SIZES).repeat(3) + rng.normal(0, 0.02, 3 * len(SIZES)), seeds=3)
    one, nine = (forecast_pair(here, (1e9, 2e10), seeds=count).of_run for count in (1, 9))
    assert nine.high - nine.low < 0.7 * (one.high - one.low)


def test_intervals_of_pairs_cover() -> None:
    pairs, hits, count = np.array([(1e9, 2e10), (1.6e10, 8e11)]), np.zeros(2), 25
    for seed in range(count):
        rng = np.random.default_rng(seed)
        low, high = envelope(found(chinchilla(SIZES) + rng.normal(0, 0.01, len(SIZES))), pairs)
        new = chinchilla(pairs) + rng.normal(0, 0.01, 2)
        hits += (low <= new) & (new <= high)
    # At 95% fewer than 21 of 25 come one time in thirty.
    assert (hits >= 21).all()


def test_what_is_not_trusted_is_refused_and_marked() -> None:
    here = found(chinchilla(SIZES) + np.random.default_rng(1).normal(0, 0.01, len(SIZES)))
    assert forecast_pair(here, (1.5e10, 7e11)).trusted
    with pytest.raises(UserError, match="--extrapolate"):
        forecast_pair(here, (1e11, 1e13))
    far = forecast_pair(here, (1e11, 1e13), extrapolate=True)
    assert not far.trusted and "two-powers" in {item.law for item in far.laws}


def test_pairs_that_the_smaller_ones_mispredict_end_the_horizon() -> None:
    rng = np.random.default_rng(2)
    jump = 0.5 * (np.add.outer(range(4), range(4)).ravel() >= 5)
    broken = found(chinchilla(SIZES) + jump + rng.normal(0, 0.005, len(SIZES)))
    test = back_test_pairs(broken)
    assert test is not None and test.failed and horizon(broken)[0] == 0
    with pytest.raises(UserError, match="did not predict the larger ones"):
        forecast_pair(broken, (1.5e10, 7e11))

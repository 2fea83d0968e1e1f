"""Gains over a baseline: their signs, and their errors against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from drorae.metrics.evaluate import Evaluation
from drorae.metrics.frechet import FeatureStatistics, Influence, frechet_influence, frechet_replicates
from drorae.metrics.gain import Gain, gain_of, gains, interval

RNG = np.random.default_rng(0)


def measured(**values: np.ndarray) -> Evaluation:
    """An evaluation whose metrics are means."""
    return Evaluation({name: float(value.mean()) for name, value in values.items()}, values)


def test_a_gain_is_positive_where_the_trial_is_better_and_its_error_is_that_of_the_paired_t_test() -> None:
    base = RNG.normal(20, 3, 50)
    trial = base + RNG.normal(0.5, 0.8, 50)
    found = gains(measured(psnr=trial, l1=trial), measured(psnr=base, l1=base))
    reference = stats.ttest_rel(trial, base)
    assert found["psnr"] == pytest.approx((trial - base).mean()) and found["l1"] == pytest.approx(-found["psnr"])
    assert found["psnr"] / found["psnr_se"] == pytest.approx(reference.statistic)
    shown = gain_of(found, "psnr", 50)
    assert shown is not None
    assert (shown.value - shown.half, shown.value + shown.half) == pytest.approx(
        tuple(reference.confidence_interval()), rel=1e-5
    )


def distance(features: np.ndarray, originals: np.ndarray) -> Influence:
    sets = []
    for rows in (features, originals):
        sets.append(FeatureStatistics(rows.shape[1]))
        sets[-1].update(torch.from_numpy(rows))
    return frechet_influence(sets[0], features, sets[1], originals)


def test_the_error_of_a_distance_s_gain_is_that_of_a_paired_bootstrap() -> None:
    n, replicates = 400, 400
    originals = RNG.normal(size=(n, 6))
    base = 0.7 * originals + RNG.normal(0.2, 0.4, (n, 6))
    trial = 0.8 * originals + 0.8 * (base - 0.7 * originals)
    evaluations = []
    for features in (trial, base):
        influence = distance(features, originals)
        evaluations.append(Evaluation({"rfd_x": influence.distance}, {"rfd_x_influence": influence.images}))
    found = gains(*evaluations)
    assert found["rfd_x"] == pytest.approx(evaluations[1].metrics["rfd_x"] - evaluations[0].metrics["rfd_x"])
    counts = RNG.multinomial(n, np.full(n, 1 / n), replicates)
    drawn = frechet_replicates(base, originals, counts) - frechet_replicates(trial, originals, counts)
    # The Monte Carlo error of a standard deviation of 400 draws is 3.5%.
    assert found["rfd_x_se"] == pytest.approx(drawn.std(ddof=1), rel=4 / math.sqrt(2 * replicates))
    alone = [np.square(item.per_image["rfd_x_influence"]).sum() / (n * (n - 1)) for item in evaluations]
    assert found["rfd_x_se"] < math.sqrt(sum(alone)) / 1.5, "pairs err together"


def test_what_cannot_be_paired_has_no_gain() -> None:
    base, trial = RNG.normal(size=(2, 8))
    whole = measured(psnr=base, ssim=base, mine=base, l1=base)
    lacking = measured(psnr=np.append(trial, 1.0), ssim=np.full(8, math.inf), mine=trial)
    assert gains(lacking, whole) == {} == gains(whole, Evaluation({}, {}))
    assert gain_of({}, "psnr", 8) is None


def test_a_tokenizer_that_is_the_baseline_gains_nothing_for_certain() -> None:
    base = measured(psnr=RNG.normal(size=8))
    assert gains(base, base) == {"psnr": 0.0, "psnr_se": 0.0}


@pytest.mark.parametrize("images", [2, 3, 4, 5, 11, 50, 800, 50_000])
def test_the_interval_is_student_s(images: int) -> None:
    exact = stats.t.ppf(0.975, images - 1)
    assert interval(1.0, 1.0, images).half == pytest.approx(exact, rel=1e-5 if images > 10 else 4e-3)


def test_an_interval_is_printed_with_its_sign() -> None:
    assert interval(1.0, 0.0, 5) == Gain(1.0, 0.0)
    assert str(Gain(0.93127, 0.0424)) == "+0.9313 ± 0.042" and str(Gain(-2.0, 1.0)) == "-2 ± 1"

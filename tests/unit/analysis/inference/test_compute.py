"""What compute buys best: published exponents, closed forms, coverage, and minima that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.inference.compute import compute_law, isoflop
from analysis.laws.curves import CurveFit, fit_curve
from analysis.laws.forms import FORMS
from analysis.laws.intervals import Sample, points
from drorae.errors import UserError

PAIRS = np.array([(n, d) for n in np.geomspace(5e7, 1e10, 4) for d in np.geomspace(1e9, 5e11, 4)])
BESIROGLU = np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])
"""E, A, B, alpha, beta: Besiroglu et al. (2024), table 1."""


def chinchilla(seed: int = 0, sd: float = 0.0, parameters: np.ndarray = BESIROGLU) -> CurveFit:
    loss = FORMS["chinchilla"].value(PAIRS, parameters)
    return fit_curve("chinchilla", PAIRS, loss + sd * np.random.default_rng(seed).normal(size=len(loss)))


def test_besiroglu_s_refit_implies_the_published_exponents() -> None:
    law = compute_law(chinchilla(), [5.76e23])
    assert law.exponent.value == pytest.approx(0.3658 / (0.3478 + 0.3658), rel=1e-4)
    assert law.exponent.value + law.second_exponent.value == pytest.approx(1)
    (best,) = law.optima
    # About 20 tokens per parameter at Chinchilla's budget, as the paper has it.
    assert 15 < best.second.value / best.first.value < 30


def test_the_closed_form_is_the_least_of_the_law_along_its_budget() -> None:
    (best,) = compute_law(chinchilla(), [3e22], per_pair=5.0).optima
    assert 5.0 * best.first.value * best.second.value == pytest.approx(3e22)
    n = np.geomspace(best.first.value / 3, best.first.value * 3, 2001)
    along = chinchilla().value(np.column_stack([n, 3e22 / 5 / n]))
    assert n[np.argmin(along)] == pytest.approx(best.first.value, rel=2e-3)
    assert best.value == pytest.approx(along.min())


def test_intervals_of_exponent_and_sizes_cover() -> None:
    a = BESIROGLU[4] / (BESIROGLU[3] + BESIROGLU[4])
    true = compute_law(chinchilla(), [1e22]).optima[0].first.value
    hits, count = np.zeros(2), 60
    for seed in range(count):
        law = compute_law(chinchilla(seed, 0.01), [1e22])
        (low, high), (least, most) = law.exponent.ci95, law.optima[0].first.ci95
        hits += [low <= a <= high, least <= true <= most]
    # At 95% fewer than 53 of 60 come one time in a hundred.
    assert (hits >= 53).all()


def test_a_fit_without_intervals_has_none_here() -> None:
    loss = FORMS["chinchilla"].value(PAIRS, BESIROGLU)
    law = compute_law(fit_curve("chinchilla", PAIRS, loss, method="huber"), [1e22])
    assert law.exponent.value == pytest.approx(0.5126, abs=1e-3)
    assert not any(map(math.isfinite, law.exponent.ci95)) and law.optima[0].first.ci95.high == math.inf


def levels(
    seed: int, sd: float = 0.003, shift: float = 0.0, bend: float = 0.2
) -> tuple[Sample, np.ndarray, np.ndarray]:
    """Three levels of compute with seven sizes each; the optimum grows like C^0.5. Returns the true optima too."""
    budgets = np.repeat([1e19, 1e20, 1e21], 7)
    best = 8.5 + 0.5 * (np.log10(budgets) - 19)
    u = best + np.tile(np.linspace(-0.6, 0.6, 7), 3) + shift
    loss = 3 + bend * (u - best) ** 2 - 0.2 * (np.log10(budgets) - 19)
    loss = loss + np.random.default_rng(seed).normal(0, sd, len(u))
    return points(10**u, loss), budgets, 10 ** best[::7]


def test_minima_and_their_intervals_are_right() -> None:
    hits = slopes = 0
    for seed in range(60):
        sample, budgets, true = levels(seed)
        found = isoflop(sample, budgets)
        assert found.exponent is not None and [level.n for level in found.levels] == [7, 7, 7]
        for level, size in zip(found.levels, true, strict=True):
            assert level.minimum is not None
            hits += level.minimum.ci95.low <= size <= level.minimum.ci95.high
        slopes += found.exponent.ci95.low <= 0.5 <= found.exponent.ci95.high
    # At 95% fewer than 163 of 180, and than 53 of 60, come one time in a hundred.
    assert hits >= 163 and slopes >= 53


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"bend": -0.2}, "only its opposite"),
        ({"shift": 0.9}, "run smaller ones"),
        ({"shift": -0.9}, "run larger ones"),
        ({"bend": 0.01, "sd": 0.02}, ""),
    ],
)
def test_what_is_no_minimum_is_refused(more: dict[str, float], reason: str) -> None:
    sample, budgets, _ = levels(3, **more)
    found = isoflop(sample, budgets)
    assert found.exponent is None
    refused = [level for level in found.levels if level.minimum is None]
    assert refused and all(level.reason and math.isnan(level.value) for level in refused)
    assert all(reason in level.reason for level in refused)


def test_where_higher_is_better_a_maximum_is_looked_for() -> None:
    sample, budgets, true = levels(1, bend=-0.2)
    found = isoflop(sample, budgets, lower_is_better=False)
    assert found.levels[0].minimum is not None and found.levels[0].value == pytest.approx(3, abs=0.01)
    assert found.levels[0].minimum.value == pytest.approx(true[0], rel=0.1)


def test_what_compute_cannot_be_asked() -> None:
    with pytest.raises(UserError, match="alone, not of plane"):
        compute_law(fit_curve("plane", PAIRS, np.log(PAIRS).sum(axis=1)), [1e20])
    with pytest.raises(UserError, match="fall along both"):
        compute_law(chinchilla(parameters=np.array([1.8, 482, -2085, 0.35, 0.37])), [1e20])
    with pytest.raises(UserError, match="a budget of"):
        compute_law(chinchilla(), [0.0])
    with pytest.raises(UserError, match="operations per pair"):
        compute_law(chinchilla(), [1e20], per_pair=0.0)
    with pytest.raises(UserError, match="share a compute"):
        isoflop(points(np.geomspace(1e6, 1e9, 6), np.ones(6)), np.geomspace(1e18, 1e24, 6))
    with pytest.raises(UserError, match="not above 0"):
        isoflop(points(np.geomspace(1e6, 1e9, 6), np.ones(6)), np.zeros(6))

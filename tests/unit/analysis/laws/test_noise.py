"""What seeds know of the scatter: estimates of their variance, and the variances of a fit against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from tables import codes, fit

from analysis.laws.noise import Replication, Uncertainty, replication


def _runs(
    rise: float, rng: np.random.Generator, seeds: int = 4, configurations: int = 8, between: float = 0.0
) -> pd.DataFrame:
    """Configurations over two decades whose seeds' sd, .1 in the middle, grows `rise` times over the sizes."""
    u = np.linspace(-1, 1, configurations)
    rows = [
        (10 ** (6 + a), k, seed, 1 - 0.05 * a + shift + rng.normal(0, 0.1 * rise ** (a / 2)))
        for k, (a, shift) in enumerate(zip(u, rng.normal(0, between, configurations), strict=True))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["params", "expert_hidden_dim", "seed", "rfid"])


@pytest.mark.parametrize("rise", [5.0, 10.0, 0.1])
def test_the_variance_is_that_of_greatest_likelihood(rise: float) -> None:
    frame = _runs(rise, np.random.default_rng(0))
    x = np.sort(frame["params"].unique())
    found = replication(x, frame["rfid"].to_numpy(), frame["expert_hidden_dim"].to_numpy())
    assert found is not None and found.trend
    squares = frame.groupby("params")["rfid"].apply(lambda y: float(np.sum((y - y.mean()) ** 2))).to_numpy()

    def misfit(v: np.ndarray) -> float:
        log = v[0] + v[1] * np.log10(x / 1e6)
        return float(np.sum(3 * log + squares * np.exp(-log)))

    level, tilt = optimize.minimize(misfit, [-4.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8}).x
    assert 2 * np.log(found.sd(1e6)) == pytest.approx(level, abs=1e-3)
    assert found.theta[1] == pytest.approx(tilt, abs=1e-3)
    assert found.covariance[1, 1] == pytest.approx(2 / 3 / np.sum((np.log10(x) - 6) ** 2), rel=1e-6)
    assert "unequal-seed-variance" in codes(fit(frame))


def test_a_trend_is_seen_where_there_is_one_and_seldom_weighed_where_there_is_none() -> None:
    def share(rise: float) -> tuple[float, float]:
        found = []
        for k in range(150):
            frame = _runs(rise, np.random.default_rng(k), seeds=3)
            found.append(fit(frame).sample.replication)
        return float(np.mean([item.trend for item in found])), float(np.mean([item.weighed for item in found]))

    assert share(10)[0] >= 0.95
    assert share(1)[0] <= 0.36 and share(1)[1] <= 0.12


def test_equal_scatter_is_the_pooled_variance_and_unequal_runs_weigh_the_same() -> None:
    frame = _runs(1.0, np.random.default_rng(1))
    frame = frame[(frame["seed"] == 0) | frame["expert_hidden_dim"].isin([0, 7])]
    line = fit(frame)
    seeds = line.sample.replication
    assert seeds is not None and np.all(line.sample.weights == 1)
    assert seeds.sd(1e6) == pytest.approx(line.seed_sd)
    assert seeds.typical == pytest.approx(8 / np.sum(1 / line.sample.runs))
    by_hand = np.polyfit(np.log10(line.sample.x[:, 0]), line.sample.y, 1)
    assert (line.slope, line.intercept) == pytest.approx(tuple(by_hand))


def test_residuals_over_seeds_is_the_textbook_f_and_its_small_side_is_a_note() -> None:
    frame = _runs(1.0, np.random.default_rng(5), seeds=3, between=0.1)
    line = fit(frame)
    f, (first, second) = line.curve.uncertainty.homogeneity
    left = line.sample.y - np.polyval(np.polyfit(np.log10(line.sample.x[:, 0]), line.sample.y, 1),
                                      np.log10(line.sample.x[:, 0]))  # fmt: skip
    assert f == pytest.approx(3 * np.sum(left**2) / 6 / line.seed_sd**2, rel=1e-6)
    if not line.sample.replication.trend:
        assert (first, second) == pytest.approx((6, 16))
    # Seeds that err alike at all sizes: the means lie closer to the line than their seeds say.
    shared = frame.assign(rfid=1 - 0.05 * np.log10(frame["params"]) + 0.5 * frame["seed"])
    shared["rfid"] += np.random.default_rng(6).normal(0, 0.01, len(shared))
    assert "less-scatter-than-seeds" in codes(fit(shared))
    assert stats.f.cdf(fit(shared).curve.uncertainty.homogeneity.f, 6, 16) < 0.05


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_seeds_that_scatter_there_is_nothing_to_know(seeds: int) -> None:
    y = np.repeat(np.arange(6.0), seeds)
    assert replication(10.0 ** np.arange(6), y, np.repeat(np.arange(6), seeds)) is None


def test_small_products_are_those_of_the_whole_residual_form() -> None:
    """Against the n by n matrices that the formulas are written in."""
    rng = np.random.default_rng(8)
    n = 9
    gradient, weights = rng.normal(size=(n, 3)) * [1, 1e4, 1e-3], rng.uniform(0.3, 2, n)
    runs = rng.integers(1, 5, n).astype(float)
    design = np.column_stack([np.ones(n), np.linspace(-1, 1, n)])
    covariance = np.array([[0.2, 0.03], [0.03, 0.4]])
    seeds = Replication(runs, design, np.array([-2.0, 0.7]), covariance, 0.0, 0.01)
    root, v = np.sqrt(weights), seeds.of_means
    unit = gradient * root[:, None]
    form = root[:, None] * (np.eye(n) - unit @ np.linalg.pinv(unit, rcond=1e-12)) * root
    implied = np.trace(form @ np.diag(v))
    rows = rng.normal(size=(4, 3)) * [1, 1e4, 1e-3]
    means = rows @ np.linalg.pinv(unit, rcond=1e-12) * root
    for rss in (implied, 5 * implied):
        found = Uncertainty(gradient, weights, float(rss), seeds)
        f, (first, second) = found.homogeneity
        assert f == pytest.approx(rss / implied, rel=1e-9)
        assert first == pytest.approx(implied**2 / np.trace(form @ np.diag(v) @ form @ np.diag(v)), rel=1e-9)
        slope = design.T @ (np.diag(form) * v)
        assert second == pytest.approx(2 * implied**2 / (slope @ covariance @ slope), rel=1e-9)
    tau2 = (rss - implied) / np.trace(form)
    margin = found.margin(rows)
    np.testing.assert_allclose(margin.law, (means**2 * (tau2 + v)).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(margin.unit, (means**2 / weights).sum(axis=1), rtol=1e-9)
    scatter = np.diag(tau2 + v)
    factor = (means**2).sum(axis=1) / np.trace(form)
    by_theta = ((means**2 - factor[:, None] * np.diag(form)) * v) @ design
    spread = factor**2 * 2 * np.trace(form @ scatter @ form @ scatter)
    spread += np.einsum("mk,kl,ml->m", by_theta, covariance, by_theta)
    np.testing.assert_allclose(margin.dof, 2 * margin.law**2 / spread, rtol=1e-9)


@pytest.mark.parametrize(
    "runs", [(8, 1, 1, 1, 1, 1, 1, 8), (1, 1, 8, 8, 8, 8, 1, 1), (6, 2, 2, 2, 2, 2, 2, 6), (3,) * 8]
)
def test_small_residuals_beside_unequal_runs_tell_of_small_errors(runs: tuple[int, ...]) -> None:
    """Against simulated errors: equal weights of unequal means leave errors that the residuals show in part."""
    rng, u = np.random.default_rng(9), np.linspace(-1, 1, 8)
    design, v = np.column_stack([np.ones(8), u]), 1 / np.array(runs, dtype=float)
    # Seeds that know the variance of a run to a thousandth.
    seeds = Replication(1 / v, np.ones((8, 1)), np.zeros(1), np.array([[1e-6]]), 0.0, float("nan"))
    means = rng.normal(size=(6000, 8)) * np.sqrt(v)
    coefficients = means @ np.linalg.pinv(design).T
    rss = np.sum((means - coefficients @ design.T) ** 2, axis=1)
    implied = float(np.mean(rss))
    rows = np.array([[0.0, 1.0], [1.0, 1.3]])
    for low, high in ((0.0, 0.4), (0.4, 0.9)):
        chosen = np.flatnonzero((low * implied < rss) & (rss < high * implied))[:700]
        errors = (coefficients[chosen] @ rows.T) ** 2
        law = np.array([Uncertainty(design, np.ones(8), float(rss[i]), seeds).margin(rows).law for i in chosen])
        np.testing.assert_allclose(errors.mean(axis=0) / law.mean(axis=0), 1, atol=4 * np.sqrt(2 / len(chosen)))


@pytest.mark.parametrize("factor", [1.02, 1.2, 5.0])
def test_beside_a_trend_residuals_above_what_the_seeds_imply_are_the_configurations(factor: float) -> None:
    """Not pooled, as chance would allow: the excess is a variance of configurations, the same at all sizes."""
    design = np.column_stack([np.ones(8), np.linspace(-1, 1, 8)])
    covariance = np.linalg.inv(design.T @ design)
    seeds = Replication(np.full(8, 3.0), design, np.array([0.0, -2.3]), covariance, 0.0, 0.01)
    v = seeds.of_means
    weights = 1 / v / np.mean(1 / v)
    coefficients = np.linalg.inv(design.T * weights @ design) @ design.T * weights
    form = np.diag(weights) - weights[:, None] * design @ coefficients
    tau2 = (factor - 1) * np.trace(form * v) / np.trace(form)
    found = Uncertainty(design, weights, factor * float(np.trace(form * v)), seeds)
    assert not found.pooled and not replace(found, rss=found.rss / factor * 1.001).pooled
    row = np.array([[1.0, 1.3]])
    share = (row @ coefficients)[0]
    margin = found.margin(row, np.array([10**1.3]))
    assert margin.law == pytest.approx(share**2 @ (tau2 + v), rel=1e-9)
    assert margin.noise == pytest.approx(tau2 + np.exp(-2.3 * 1.3), rel=1e-9)
    # However small it is, two of six degrees of freedom stay.
    assert margin.dof >= 2 - 1e-9
    assert replace(found, rss=found.rss / factor * 0.9).pooled

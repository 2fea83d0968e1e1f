"""The Frechet distance's standard error: against derivatives, resamples one by one, and independent sets of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drorae.metrics.frechet import (
    FeatureStatistics,
    Influence,
    frechet_distance,
    frechet_influence,
    frechet_replicates,
)


def statistics_of(features: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(torch.from_numpy(features))
    return statistics


def influence_of(a: np.ndarray, b: np.ndarray) -> Influence:
    return frechet_influence(statistics_of(a), a, statistics_of(b), b)


def pairs(n: int, dim: int, seed: int, decay: float = 0.7, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian features of reconstructions and of their originals."""
    generator = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1.0) ** -decay
    originals = generator.standard_normal((n, dim)) * scale
    return 0.9 * originals + noise * generator.standard_normal((n, dim)) * scale + 0.05 * scale, originals


def weighted_distance(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """The distance with every pair counted `weights` times, written out in the space of the images."""
    n = len(a)
    means = [weights @ x / weights.sum() for x in (a, b)]
    rows = [
        (x - mean) * np.sqrt(weights / weights.sum() * n / (n - 1))[:, None]
        for x, mean in zip((a, b), means, strict=True)
    ]
    cross = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    return ((means[0] - means[1]) ** 2).sum() + sum((x**2).sum() for x in rows) - 2 * cross


@pytest.mark.parametrize(("n", "dim"), [(60, 12), (30, 80)])
def test_influence_is_the_derivative_by_an_image_s_weight(n: int, dim: int) -> None:
    a, b = pairs(n, dim, seed=0)
    found = influence_of(a, b)
    assert found.distance == pytest.approx(frechet_distance(statistics_of(a), statistics_of(b)), rel=1e-9)
    step = 1e-4
    for image in (0, 7, n - 1):
        bumps = np.eye(n)[image] * step
        up, down = (weighted_distance(a, b, np.ones(n) + sign * bumps) for sign in (1, -1))
        assert found.images[image] == pytest.approx(n * (up - down) / (2 * step), rel=1e-4, abs=1e-6)
    assert found.images.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "dim"), [(60, 12), (50, 40), (30, 80)])
def test_replicates_equal_a_brute_force_bootstrap_of_the_same_resamples(n: int, dim: int) -> None:
    a, b = pairs(n, dim, seed=1)
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, n, (5, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in chosen])
    expected = [frechet_distance(statistics_of(a[row]), statistics_of(b[row])) for row in chosen]
    np.testing.assert_allclose(frechet_replicates(a, b, counts), expected, rtol=1e-9)


def test_first_order_follows_the_brute_force_bootstrap_where_images_are_many() -> None:
    a, b = pairs(1500, 16, seed=2)
    found = influence_of(a, b)
    chosen = np.random.default_rng(0).integers(0, 1500, (300, 1500))
    replicates = np.array([frechet_distance(statistics_of(a[row]), statistics_of(b[row])) for row in chosen])
    linear = np.array([found.images[row].mean() for row in chosen])
    assert np.corrcoef(linear, replicates)[0, 1] > 0.95
    # 300 replicates know their spread to 4%.
    assert found.standard_error == pytest.approx(replicates.std(ddof=1), rel=0.12)


@pytest.mark.parametrize(("n", "dim", "decay"), [(400, 48, 0.7), (100, 200, 0.3)])
def test_standard_error_is_the_spread_over_independent_sets_of_images(n: int, dim: int, decay: float) -> None:
    found = [influence_of(*pairs(n, dim, seed, decay)) for seed in range(150)]
    spread = np.std([one.distance for one in found], ddof=1)
    ratio = np.mean([one.standard_error for one in found]) / spread
    # 150 sets know the spread to 6%; with more features than images the estimate is known to be a little large.
    assert 0.85 < ratio < 1.25
    if n < dim:
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 40)
        assert frechet_replicates(*pairs(n, dim, 0, decay), counts).std(ddof=1) > 1.3 * spread


def test_influences_give_the_error_of_the_difference_of_two_runs() -> None:
    """On the same images levels move together, so a difference is known better than its two levels suggest."""
    differences, errors, naive = [], [], []
    for seed in range(150):
        first, originals = pairs(300, 24, seed, noise=0.40)
        second = first + 0.02 * np.random.default_rng([seed, 1]).standard_normal(first.shape)
        one, two = influence_of(first, originals), influence_of(second, originals)
        differences.append(one.distance - two.distance)
        errors.append((one.images - two.images).std(ddof=1) / np.sqrt(300))
        naive.append(np.hypot(one.standard_error, two.standard_error))
    spread = np.std(differences, ddof=1)
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)
    assert np.mean(naive) > 2 * spread


def test_an_exact_reference_leaves_the_reconstructions_error() -> None:
    found = []
    truth = statistics_of(pairs(20000, 16, 99)[1])
    for seed in range(150):
        a, _ = pairs(300, 16, seed)
        found.append(frechet_influence(statistics_of(a), a, truth))
    spread = np.std([one.distance for one in found], ddof=1)
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.3)


def test_perfect_reconstructions_have_no_error() -> None:
    a, _ = pairs(50, 20, 0)
    found = influence_of(a, a)
    assert found.distance == pytest.approx(0, abs=1e-9) and found.standard_error < 1e-9


def test_what_has_no_error_is_refused() -> None:
    a, b = pairs(10, 3, 0)
    with pytest.raises(ValueError, match="at least 2"):
        influence_of(a[:1], b[:1])
    with pytest.raises(ValueError, match="the features of 10 images"):
        frechet_influence(statistics_of(a), a, statistics_of(b), b[:9])

"""The Frechet distance against torch-fidelity, torchmetrics and closed forms; its standard error against derivatives,
resamples one by one, and independent sets of images; streamed statistics against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from drorae.metrics import frechet
from drorae.metrics.frechet import (
    FeatureStatistics,
    Influence,
    frechet_distance,
    frechet_influence,
    frechet_influences,
    frechet_replicates,
)


def sample(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated float64 features whose spectrum spans two decades, as a network's does."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).standard_normal((dim, dim)) / np.sqrt(dim)
    return generator.standard_normal((n, dim)) * np.geomspace(0.1, 1, dim) @ mixing + shift


def statistics_of(features: np.ndarray, batch: int = 1000) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for start in range(0, len(features), batch):
        statistics.update(torch.from_numpy(features[start : start + batch]))
    return statistics


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_streamed_statistics_equal_numpy(batch: int) -> None:
    features = sample(500, 24, seed=0, shift=1000.0)
    found = statistics_of(features, batch)
    assert found.n == 500
    np.testing.assert_allclose(found.mean.numpy(), features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.cov.numpy(), np.cov(features, rowvar=False), rtol=0, atol=1e-12)


def test_a_large_mean_does_not_cancel() -> None:
    small = sample(400, 16, seed=0)
    found = statistics_of(small + 1e7, batch=32)
    np.testing.assert_allclose(found.cov.numpy(), np.cov(small, rowvar=False), rtol=0, atol=1e-8)


def test_merge_equals_one_pass() -> None:
    features = sample(300, 16, seed=0, shift=5.0)
    left, right = statistics_of(features[:70]), statistics_of(features[70:])
    left.merge(right)
    left.merge(FeatureStatistics(16))
    whole = statistics_of(features)
    assert left.n == whole.n
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(left.cov, whole.cov, rtol=0, atol=1e-13)


def test_saved_statistics_give_the_same_distance_to_the_bit(tmp_path: Path) -> None:
    a, b = statistics_of(sample(97, 16, seed=0)), statistics_of(sample(97, 16, seed=1))
    a.save(tmp_path / "a.npz")
    loaded = FeatureStatistics.load(tmp_path / "a.npz")
    assert loaded.n == a.n and torch.equal(loaded.mean, a.mean) and torch.equal(loaded.cov, a.cov)
    assert frechet_distance(loaded, b) == frechet_distance(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(("n", "dim"), [(500, 64), (1000, 384)])
def test_agrees_with_torch_fidelity(n: int, dim: int) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = sample(n, dim, seed=2), sample(n + 11, dim, seed=3, shift=0.02) * 1.2
    expected = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(torch.from_numpy(a)), fid.fid_features_to_statistics(torch.from_numpy(b)), False
    )["frechet_inception_distance"]
    assert frechet_distance(statistics_of(a), statistics_of(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_agrees_with_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.fid")
    # Its own weights are torch-fidelity's, but features of any network are taken through `feature`.
    identity = torch.nn.Flatten()
    setattr(identity, "num_features", 48)  # noqa: B010
    metric = image.FrechetInceptionDistance(feature=identity, input_img_size=(3, 4, 4), normalize=True)
    metric.set_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 4, 4), generator=generator, dtype=torch.uint8)
    fake = torch.randint(40, 256, (350, 3, 4, 4), generator=generator, dtype=torch.uint8)
    for images, is_real in ((real, True), (fake, False)):
        metric.update(images.double() / 255, real=is_real)
    # It hands a network of the user its floats in [0, 1] as they are.
    seen = [(images.double() / 255).flatten(1).numpy() for images in (real, fake)]
    found = frechet_distance(statistics_of(seen[0]), statistics_of(seen[1]))
    assert found == pytest.approx(float(metric.compute()), rel=1e-6)


def test_closed_form_of_diagonal_gaussians() -> None:
    """sum (m - m')^2 + (s - s')^2 for diagonal covariances, which points on the axes have exactly."""
    scales = np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 0.5]])
    sets = []
    for scale, shift in zip(scales, (0.0, 1.0), strict=True):
        points = np.concatenate([np.diag(scale), -np.diag(scale)])
        sets.append(statistics_of(points + shift))
    deviations = scales * np.sqrt(2 / 5)
    expected = 3 * 1.0 + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(sets[0], sets[1]) == pytest.approx(expected, rel=1e-12)


def test_fewer_images_than_features() -> None:
    """Rank-deficient: zero with itself, and the value of the subspace that the images span."""
    few = sample(40, 8, seed=5)
    other = sample(40, 8, seed=6, shift=0.1)
    basis = np.linalg.qr(np.random.default_rng(7).standard_normal((200, 8)))[0]
    wide_a, wide_b = statistics_of(few @ basis.T), statistics_of(other @ basis.T)
    expected = frechet_distance(statistics_of(few), statistics_of(other))
    assert frechet_distance(wide_a, wide_b) == pytest.approx(expected, rel=1e-6)
    assert 0 <= frechet_distance(wide_a, wide_a) < 1e-8
    assert frechet_distance(wide_a, wide_b) == pytest.approx(frechet_distance(wide_b, wide_a), rel=1e-9)


def test_equal_points_have_no_spread() -> None:
    same, other = statistics_of(np.zeros((5, 3))), statistics_of(np.ones((5, 3)))
    assert frechet_distance(same, other) == 3.0


def test_what_cannot_be_compared_is_refused() -> None:
    one, two = FeatureStatistics(4), FeatureStatistics(5)
    with pytest.raises(ValueError, match="different widths: 4 and 5"):
        frechet_distance(one, two)
    one.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(one, one)
    with pytest.raises(ValueError, match=r"expected features \[B, 4\], got \[2, 5\]"):
        one.update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="not finite"):
        one.update(torch.full((2, 4), float("nan")))


@pytest.mark.slow
def test_covariances_with_many_equal_eigenvalues() -> None:
    """A few images in many features, most of them dead: what pooled ReLU6 features of tiny crops look like."""
    generator = torch.Generator().manual_seed(0)
    statistics = []
    for shift in (0.0, 0.5):
        features = torch.zeros(32, 1280, dtype=torch.float64)
        features[:, :200] = torch.randn(32, 200, generator=generator, dtype=torch.float64).clamp(min=0) + shift
        statistics.append(FeatureStatistics(1280))
        statistics[-1].update(features)
    small = []
    for full in statistics:
        small.append(FeatureStatistics(200))
        small[-1].n, small[-1].mean, small[-1]._scatter = full.n, full.mean[:200], full._scatter[:200, :200]
    assert frechet_distance(*statistics) == pytest.approx(frechet_distance(*small), rel=1e-6)
    assert frechet_distance(statistics[0], statistics[0]) == pytest.approx(0.0, abs=1e-6)


def test_decomposition_falls_back_where_lapack_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = [FeatureStatistics(20), FeatureStatistics(20)]
    generator = torch.Generator().manual_seed(1)
    for one in statistics:
        one.update(torch.randn(12, 20, generator=generator, dtype=torch.float64))
    expected = frechet_distance(*statistics)

    def fail(_: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-9)


def test_the_fast_way_falls_back_where_lapack_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (statistics_of(sample(200, 20, seed)) for seed in (0, 1))
    expected = frechet_distance(a, b)

    def fail(_: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigvalsh", fail)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


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


CONDITIONS = {
    # What the spectra fall by, images per feature, features that are copies of others: is Cholesky's way taken?
    "well conditioned": (0.5, 4.0, 0, True),
    "as a network's": (1.0, 4.0, 0, True),
    "nearly as few images as features": (1.0, 1.1, 0, True),
    "beyond what squares can hold": (5.0, 4.0, 0, False),
    "a feature that is the sum of others": (1.0, 4.0, 1, False),
    "half of the features are others' copies": (1.0, 4.0, 2, False),
    "fewer images than features": (1.0, 0.5, 0, False),
    "one image fewer than would do": (1.0, 1.0, 0, False),
}


def conditioned(dim: int, decay: float, ratio: float, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in a random basis, or with features that others determine."""
    originals, painted = (part.copy() for part in pairs(int(ratio * dim), dim, seed=dim, decay=decay)[::-1])
    basis = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))[0]
    sets = [painted @ basis, originals @ basis]
    for features in sets:
        if copies == 1:
            features[:, -1] = features[:, :5].sum(1)
        elif copies == 2:
            features[:, dim // 2 :] = features[:, : dim // 2]
    return sets[0], sets[1]


@pytest.mark.parametrize("dim", [16, 100, 240])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_fast_way_is_taken_where_it_agrees_and_only_there(condition: str, dim: int) -> None:
    """Against the space of the images, which needs no covariance, and against scipy's root of the product."""
    decay, ratio, copies, fast = CONDITIONS[condition]
    a, b = conditioned(dim, decay, ratio, copies)
    one, two = statistics_of(a), statistics_of(b)
    taken = frechet._by_cholesky(one.cov, two.cov, frechet._uncoupled(one, two)[0], vectors=False)
    if dim > 16 or fast:
        assert (taken is not None) == fast
    found = frechet_distance(one, two)
    assert found == pytest.approx(weighted_distance(a, b, np.ones(len(a))), rel=1e-6)
    if fast:
        cross = scipy.linalg.sqrtm(one.cov.numpy() @ two.cov.numpy()).real.trace()
        traces = float(one.cov.trace() + two.cov.trace())
        assert found == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * cross, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_fast_way_does_not_depend_on_the_unit_of_the_features(scale: float) -> None:
    a, b = conditioned(60, 1.0, 4.0, 0)
    one, two = statistics_of(a * scale), statistics_of(b * scale)
    assert frechet._by_cholesky(one.cov, two.cov, frechet._uncoupled(one, two)[0], vectors=True) is not None
    expected = weighted_distance(a, b, np.ones(len(a))) * scale**2
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)


def test_sets_that_hardly_differ_are_left_to_the_slow_way() -> None:
    """Their distance is what is left of traces that are a billion times as large."""
    a, _ = conditioned(100, 1.0, 4.0, 0)
    one, two = statistics_of(a), statistics_of(a * (1 + 1e-6))
    assert frechet._by_cholesky(one.cov, two.cov, frechet._uncoupled(one, two)[0], vectors=False) is None
    assert 0 <= frechet_distance(one, two) < 1e-9 * float(one.cov.trace())


@pytest.mark.parametrize("exact", [False, True])
def test_influences_are_the_same_either_way(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    a, b = conditioned(60, 1.0, 4.0, 0)
    one, two = statistics_of(a), statistics_of(b)
    assert frechet._by_cholesky(one.cov, two.cov, frechet._uncoupled(one, two)[0], vectors=True) is not None
    fast = frechet_influence(one, a, two, None if exact else b)
    monkeypatch.setattr(frechet, "_by_cholesky", lambda *given, **named: None)
    slow = frechet_influence(one, a, two, None if exact else b)
    assert fast.distance == pytest.approx(slow.distance, rel=1e-6)
    np.testing.assert_allclose(fast.images, slow.images, atol=1e-6 * slow.images.std())


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


@pytest.mark.parametrize(("n", "m", "dim"), [(60, 90, 12), (40, 25, 60), (25, 200, 60), (200, 30, 60)])
def test_influences_of_independent_sets_are_derivatives(n: int, m: int, dim: int) -> None:
    """By weights: image i of either set counted 1 + h/n times, in the space of the features or below it."""
    a, b = sample(n, dim, seed=0), sample(m, dim, seed=1, shift=0.1) * 1.3
    found = frechet_influences(statistics_of(a), a, statistics_of(b), b)
    assert found.distance == pytest.approx(frechet_distance(statistics_of(a), statistics_of(b)), rel=1e-6)

    def moments(rows: np.ndarray, item: int, step: float) -> frechet.Moments:
        weights = np.ones(len(rows)) / len(rows)
        weights[item] += step
        weights /= weights.sum()
        mean = weights @ rows
        cov = (weights[:, None] * (rows - mean)).T @ (rows - mean) * len(rows) / (len(rows) - 1)
        return frechet.Moments(torch.from_numpy(mean), torch.from_numpy(cov))

    step = 1e-5
    for item in (0, 7, 20):
        for rows, side, other in ((a, found.a, statistics_of(b)), (b, found.b, statistics_of(a))):
            up, down = (frechet_distance(moments(rows, item, sign * step), other) for sign in (1, -1))
            assert side[item] == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-3 * np.abs(side).max())


def test_influences_give_the_spread_over_independent_sets() -> None:
    distances, errors, parts = [], [], []
    for seed in range(0, 400, 2):
        a, b = sample(300, 8, seed), sample(500, 8, seed + 1, shift=0.2)
        found = frechet_influences(statistics_of(a), a, statistics_of(b), b)
        distances.append(found.distance)
        errors.append(found.standard_error)
        parts.append(found.standard_error_b)
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.2)
    assert 0.3 < np.mean(parts) / np.mean(errors) < 0.9
    with pytest.raises(ValueError, match="features of 300 and 500 images"):
        frechet_influences(statistics_of(a), a[:9], statistics_of(b), b)

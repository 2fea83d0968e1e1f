"""The Frechet distance against torch-fidelity, torchmetrics and closed forms; streamed statistics against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drorae.metrics.frechet import FeatureStatistics, frechet_distance


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

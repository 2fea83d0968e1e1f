"""Precision and recall against torch-fidelity's, ties and copies included; nearest distances against all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from drorae.metrics import rows
from drorae.metrics.neighbours import coverage, two_nearest


def features(n: int, dim: int, seed: int, spread: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return spread * np.random.default_rng(seed).standard_normal((n, dim)) + shift


def theirs(samples: np.ndarray, reference: np.ndarray, k: int, whole: bool = True) -> tuple[float, float]:
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    found = fidelity.prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(reference),
        prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=not whole, verbose=False,
    )  # fmt: skip
    return found["precision"], found["recall"]


@pytest.fixture(params=[32, 4096])
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", request.param)


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("whole", [True, False])
def test_is_torch_fidelity_s(k: int, whole: bool) -> None:
    samples, reference = features(150, 6, 0, 0.7, 0.3), features(110, 6, 1)
    found = coverage(samples, reference, k)
    expected = theirs(samples, reference, k, whole)
    assert 0 < found.recall < found.precision < 1
    assert (found.precision, found.recall) == pytest.approx(expected, abs=1e-6)
    assert (found.samples, found.references) == (150, 110)


@pytest.mark.usefixtures("_block")
def test_a_point_on_the_border_is_inside() -> None:
    """Whole numbers have exact distances, most of which are equal to others."""
    generator = np.random.default_rng(0)
    samples, reference = (generator.integers(0, high, (90, 4)).astype(float) for high in (9, 6))
    reference[:30] = samples[:30]
    found = coverage(samples, reference)
    assert (found.precision, found.recall) == pytest.approx(theirs(samples, reference, 3), abs=1e-6)


def test_copies_lie_within_balls_of_no_width() -> None:
    """Four copies of a point make balls of radius 0; far from the origin a matrix product misses it by its rounding."""
    centres = np.repeat(features(8, 40, 0, shift=1000), 4, axis=0)
    found = coverage(centres[::4], centres)
    assert found.precision == 1
    assert coverage(centres[::4] + 1e-4, centres).precision == 0


def test_the_same_set_is_covered_and_another_place_is_not() -> None:
    points = features(60, 5, 0)
    assert coverage(points, points)[:2] == (1, 1)
    far = coverage(points + 100, points)
    assert far[:2] == (0, 0) and far.precision_error == far.recall_error == 0


def test_the_standard_error_is_that_of_a_share() -> None:
    found = coverage(features(150, 6, 0, 0.7, 0.3), features(110, 6, 1))
    assert found.precision_error == pytest.approx(math.sqrt(found.precision * (1 - found.precision) / 149))
    assert found.recall_error == pytest.approx(math.sqrt(found.recall * (1 - found.recall) / 109))


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.usefixtures("_block")
def test_the_two_nearest_images_are_the_least_of_all(views: int) -> None:
    a, b = features(70, 9, 0, shift=50), features(45 * views, 9, 1, shift=50)
    # Views of an image are alike.
    b += np.tile(b[:45] - b[:45].mean(), (views, 1))
    a[3] = b[7]
    distances, image = two_nearest(a, b, views)
    every = np.linalg.norm(a[:, None] - b, axis=2).reshape(70, views, 45).min(1)
    np.testing.assert_allclose(distances, np.sort(every)[:, :2], rtol=1e-9)
    assert distances[3, 0] == 0 < distances[3, 1] and np.array_equal(image, every.argmin(1))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="different widths: 4 and 5"):
        coverage(features(9, 4, 0), features(9, 5, 0))
    with pytest.raises(ValueError, match="more than 3 images of each, got 9 and 3"):
        coverage(features(9, 4, 0), features(3, 4, 0))
    with pytest.raises(ValueError, match="no two nearest"):
        two_nearest(features(9, 4, 0), features(2, 4, 0), views=2)

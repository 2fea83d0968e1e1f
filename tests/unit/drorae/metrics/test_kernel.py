"""The kernel distance against torchmetrics, torch-fidelity and its definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drorae.metrics import kernel
from drorae.metrics.kernel import kernel_distance


def features(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).standard_normal((n, dim))) + shift


def test_unpaired_agrees_with_torchmetrics_and_torch_fidelity() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = features(200, 32, 0, shift=0.1), features(200, 32, 1)
    found = kernel_distance(a, b, paired=False)
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    assert found == pytest.approx(float(kid.poly_mmd(*tensors)), rel=1e-9)
    # One subset of all images: the order does not matter.
    theirs = fidelity.kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=200, verbose=False)
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_is_the_estimator_written_out(paired: bool) -> None:
    a, b = features(9, 4, 0, shift=0.2), features(9, 4, 1)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    images = range(9)
    within = [k(x[i], x[j]) for x in (a, b) for i in images for j in images if i != j]
    across = [k(a[i], b[j]) for i in images for j in images if i != j or not paired]
    expected = sum(within) / 72 - 2 * np.mean(across)
    assert kernel_distance(a, b, paired) == pytest.approx(expected, rel=1e-9)


def test_paired_is_unbiased_for_reconstructions_and_unpaired_is_not() -> None:
    """Reconstructions with exactly the originals' distribution but close to them: the distance is zero."""
    paired, unpaired = [], []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        originals = generator.standard_normal((40, 8))
        painted = 0.95 * originals + np.sqrt(1 - 0.95**2) * generator.standard_normal((40, 8))
        paired.append(kernel_distance(painted, originals, paired=True))
        unpaired.append(kernel_distance(painted, originals, paired=False))
    error = np.std(paired) / np.sqrt(300)
    assert abs(np.mean(paired)) < 4 * error
    assert np.mean(unpaired) < -20 * error
    assert kernel_distance(originals, originals, paired=True) == 0


def test_parts_estimate_what_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(600, 16, 0, shift=0.3), features(600, 16, 1)
    whole = kernel_distance(a, b, paired=True)
    monkeypatch.setattr(kernel, "PART", 150)
    parts = kernel_distance(a, b, paired=True)
    assert parts != whole and parts == pytest.approx(whole, rel=0.05)
    assert kernel_distance(a, b, paired=True) == parts
    assert kernel_distance(a, b, paired=True, seed=1) != parts


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="equal shape"):
        kernel_distance(features(3, 4, 0), features(4, 4, 0), paired=False)
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(features(1, 4, 0), features(1, 4, 0), paired=True)

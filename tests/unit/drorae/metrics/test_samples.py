"""Features of a set of images: in order, in memory and back from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from drorae.metrics.samples import FeatureSample


def test_a_sample_keeps_its_features_in_order(tmp_path: Path) -> None:
    rows = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
    sample = FeatureSample(5)
    for part in rows.split(32):
        sample.update(part)
        assert sample.features[:1].shape == (1, 5)
    np.testing.assert_array_equal(sample.features[:], rows.numpy())
    assert sample.statistics.n == 70
    assert FeatureSample.load(tmp_path / "sample.npz") is None
    sample.save(tmp_path / "sample.npz")
    loaded = FeatureSample.load(tmp_path / "sample.npz")
    assert loaded is not None
    np.testing.assert_array_equal(loaded.features[:], rows.numpy())
    assert torch.equal(loaded.statistics.cov, sample.statistics.cov)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sample.npy",
        "sample.npy.sha256",
        "sample.npz",
        "sample.npz.sha256",
    ]

"""Reference statistics from files: what is written is read, by others too, and what does not fit is said."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drorae.errors import UserError
from drorae.metrics.frechet import FeatureStatistics, frechet_distance
from drorae.metrics.references import Origin, read_reference, write_reference

ORIGIN = Origin("rfid_inception", "inception-1", "images-1", "ADM centre crop 256 px, version 1", 50)


@pytest.fixture
def statistics() -> FeatureStatistics:
    found = FeatureStatistics(6)
    found.update(torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return found


def test_written_statistics_come_back_with_their_origin(statistics: FeatureStatistics, tmp_path: Path) -> None:
    write_reference(tmp_path / "new" / "own.npz", statistics, ORIGIN)
    found = read_reference(tmp_path / "new" / "own.npz")
    assert found.origin == ORIGIN and found.doubts(ORIGIN) == []
    assert torch.equal(found.moments.mean, statistics.mean) and torch.equal(found.moments.cov, statistics.cov)
    assert frechet_distance(statistics, found.moments) == frechet_distance(statistics, statistics)
    # ADM's evaluator reads the keys mu and sigma.
    with np.load(tmp_path / "new" / "own.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["mu"], statistics.mean.numpy())
        np.testing.assert_array_equal(arrays["sigma"], statistics.cov.numpy())


def test_adm_s_layout_is_taken_for_inception_and_doubted(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((40, 6))
    np.savez(
        tmp_path / "VIRTUAL.npz", mu=samples.mean(0), sigma=np.cov(samples, rowvar=False),
        mu_s=np.zeros(3), sigma_s=np.eye(3), arr_0=np.zeros((2, 4, 4, 3), np.uint8),
    )  # fmt: skip
    found = read_reference(tmp_path / "VIRTUAL.npz")
    assert found.origin == Origin("rfid_inception")
    assert ["does not say how its images were cropped" in doubt for doubt in found.doubts(ORIGIN)] == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop": "ADM centre crop 128 px, version 1", "images": "images-2"}, "cropped otherwise .*256 px.*128 px"),
        ({"images": "images-2"}, "images are others, though cropped alike"),
        ({"n": 49}, "of 50 images, the reconstructions are 49"),
        ({"extractor": "inception-2"}, "network or input size is another"),
    ],
)
def test_each_difference_is_said(
    change: dict[str, Any], said: str, statistics: FeatureStatistics, tmp_path: Path
) -> None:
    write_reference(tmp_path / "own.npz", statistics, ORIGIN)
    doubts = read_reference(tmp_path / "own.npz").doubts(dataclasses.replace(ORIGIN, **change))
    assert len(doubts) == 1 and re.search(said, doubts[0])


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UserError, match=rf"evaluation.reference: .*{match}.*expected an .npz file with mu"):
            read_reference(tmp_path / "file.npz")

    refused("no file")
    (tmp_path / "file.npz").write_bytes(b"not a zip")
    refused("file.npz")
    np.savez(tmp_path / "file.npz", mu=np.zeros(3))
    refused("sigma")
    np.savez(tmp_path / "file.npz", mu=np.zeros(3), sigma=np.eye(4))
    refused(r"sigma \(4, 4\)")
    np.savez(tmp_path / "file.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    refused(r"mu is \(3,\)")
    np.savez(tmp_path / "file.npz", mu=np.array([{}]), sigma=np.eye(3))
    refused("allow_pickle=False")

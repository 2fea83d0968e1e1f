"""Reference statistics from files: what is written is read, by others too, and what does not fit is said."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from thumbnail import Thumbnail

from drorae.errors import UserError
from drorae.metrics.frechet import FeatureStatistics, frechet_distance
from drorae.metrics.references import (
    Origin,
    extractor_of,
    read_reference,
    reference_images,
    reference_sample,
    write_reference,
)

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
        mu_s=np.arange(3), sigma_s=2 * np.eye(3), arr_0=np.zeros((2, 4, 4, 3), np.uint8),
    )  # fmt: skip
    found = read_reference(tmp_path / "VIRTUAL.npz")
    assert found.origin == Origin("rfid_inception")
    assert found.places is not None
    assert (found.places.mean.tolist(), found.places.cov.diag().tolist()) == ([0, 1, 2], [2, 2, 2])
    # With statistics in it, its images are not measured again.
    assert read_reference(tmp_path / "VIRTUAL.npz", [Thumbnail()]).origin == Origin("rfid_inception")
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


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_adm_s_images_are_measured_by_the_first_extractor(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "samples_50000x256x256x3.npz"
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), np.uint8)
    save(path, images, np.zeros(37))
    extractor = Thumbnail()
    statistics = FeatureStatistics(extractor.dim)
    statistics.update(extractor(torch.from_numpy(images).permute(0, 3, 1, 2)))
    read = list(reference_images(path, 10))
    assert [len(part) for part in read] == [10, 10, 10, 7]
    assert torch.equal(torch.cat(read).permute(0, 2, 3, 1), torch.from_numpy(images))
    assert reference_sample(path, extractor, 10).features.shape == (37, 48)
    found = read_reference(path, [extractor])
    torch.testing.assert_close(found.moments.mean, statistics.mean)
    torch.testing.assert_close(found.moments.cov, statistics.cov)
    assert found.origin == Origin("rfd_thumbnail", "thumbnail", n=37) and extractor_of(found, [extractor]) is extractor
    assert "does not say how its images were cropped" in found.doubts(ORIGIN)[0]


def test_other_arrays_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    with pytest.raises(UserError, match="evaluation.reference: no file"):
        list(reference_images(path))
    for array in (np.zeros((4, 8, 8, 3)), np.zeros((4, 3, 8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)):
        np.savez(path, array)
        with pytest.raises(UserError, match=r"file.npz: arr_0 is .* of shape .*expected an .npz file with mu"):
            read_reference(path, [Thumbnail()])
    np.savez(path, np.zeros((40, 8, 8, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="file.npz: "):
        read_reference(path, [Thumbnail()])
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="images arr_0"):
        read_reference(path, [Thumbnail()])

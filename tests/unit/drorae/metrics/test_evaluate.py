"""The evaluation as a whole: streamed, repeatable, and worse where reconstructions are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import crops, noisy, pairs
from PIL import Image
from thumbnail import Thumbnail
from torch import Tensor

from drorae.data.crops import centre_crop, evaluation_crop
from drorae.data.photos import read_photos
from drorae.metrics import image, kernel, rows
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import FeatureStatistics, frechet_distance
from drorae.metrics.references import Origin, read_reference, write_reference
from drorae.metrics.rows import Rows
from drorae.metrics.samples import FeatureSample


def test_evaluate_streams_what_whole_arrays_give() -> None:
    extractor = Thumbnail()
    originals = crops(100)
    painted = noisy(originals, 15.0)
    found = evaluate(pairs(originals, painted, batch=32), [extractor])
    assert set(found.metrics) == {
        "psnr", "ssim", "l1", "rfd_thumbnail", "rfd_thumbnail_se", "kd_thumbnail", "eval_images"
    }  # fmt: skip
    assert found.metrics["eval_images"] == 100
    np.testing.assert_allclose(found.per_image["psnr"], image.psnr(painted, originals).numpy())
    np.testing.assert_allclose(found.per_image["ssim"], image.ssim(painted, originals).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.per_image["l1"], image.l1(painted, originals).numpy())
    for name in ("psnr", "ssim", "l1"):
        assert found.metrics[name] == pytest.approx(found.per_image[name].mean())
    statistics = [FeatureStatistics(48), FeatureStatistics(48)]
    statistics[0].update(extractor(painted))
    statistics[1].update(extractor(originals))
    assert found.metrics["rfd_thumbnail"] == pytest.approx(frechet_distance(*statistics), rel=1e-9)

    known = FeatureSample(48)
    known.update(extractor(originals))
    shared = evaluate(pairs(originals, painted, batch=32), [extractor], {"rfd_thumbnail": known})
    for name in ("rfd_thumbnail", "rfd_thumbnail_se", "kd_thumbnail"):
        assert shared.metrics[name] == pytest.approx(found.metrics[name], rel=1e-9)
    again = evaluate(pairs(originals, painted, batch=32), [extractor])
    assert again.metrics == found.metrics


def test_a_perfect_reconstruction() -> None:
    originals = crops(60)
    found = evaluate(pairs(originals, originals, 25), [Thumbnail()]).metrics
    assert found["psnr"] == image.MAX_PSNR and found["l1"] == 0 and found["ssim"] == pytest.approx(1, abs=1e-5)
    assert 0 <= found["rfd_thumbnail"] < 1e-9


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features come back from their files in parts; nothing reads all of them."""
    asked = []
    plain = Rows.__getitem__

    def noted(self: Rows, chosen: slice | np.ndarray) -> np.ndarray:
        found = plain(self, chosen)
        asked.append(len(found))
        return found

    originals = crops(100)
    painted = noisy(originals, 15.0)
    whole = evaluate(pairs(originals, painted, batch=32), [Thumbnail()]).metrics
    monkeypatch.setattr(Rows, "__getitem__", noted)
    monkeypatch.setattr(rows, "BLOCK", 24)
    monkeypatch.setattr(kernel, "PART", 25)
    found = evaluate(pairs(originals, painted, batch=32), [Thumbnail()]).metrics
    assert asked and max(asked) <= 25
    for name in ("rfd_thumbnail", "rfd_thumbnail_se"):
        assert found[name] == pytest.approx(whole[name], rel=1e-9)


def test_worse_reconstructions_measure_worse(effnet: FeatureExtractor) -> None:
    originals = crops(24)
    reference = FeatureSample(effnet.dim)
    reference.update(effnet(originals))
    good, bad = (
        evaluate(pairs(originals, noisy(originals, deviation), 24), [effnet], {effnet.metric: reference}).metrics
        for deviation in (5.0, 40.0)
    )
    assert good["psnr"] > bad["psnr"] and good["ssim"] > bad["ssim"]
    assert good["l1"] < bad["l1"] and good["rfd_effnet"] < bad["rfd_effnet"]


def test_evaluate_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate([], [])
    with pytest.raises(ValueError, match="pairs differ"):
        evaluate([(crops(2), crops(3))], [])
    with pytest.raises(ValueError, match="expected uint8"):
        evaluate([(crops(2).float(), crops(2))], [])


@pytest.fixture(scope="module")
def reconstructions() -> tuple[Tensor, Tensor, FeatureSample]:
    """57 crops, what was painted of them, and the former's features."""
    originals = crops(57)
    reference = FeatureSample(48)
    reference.update(Thumbnail()(originals))
    return originals, noisy(originals, 15.0), reference


@pytest.mark.parametrize("batch", [1, 7, 8, 56, 128])
def test_the_batch_size_changes_no_metric(
    reconstructions: tuple[Tensor, Tensor, FeatureSample], effnet: FeatureExtractor, batch: int
) -> None:
    """56, 8, 7: the last batch is of one image."""
    originals, painted, reference = reconstructions
    known = {"rfd_thumbnail": reference}
    whole, found = (
        evaluate(pairs(originals, painted, size), [Thumbnail(), effnet], known).metrics for size in (57, batch)
    )
    assert found == pytest.approx(whole, rel=1e-4)


def test_images_that_are_all_equal_give_a_finite_distance_that_is_not_negative() -> None:
    one = crops(1).expand(12, -1, -1, -1).contiguous()
    for originals, painted in ((one, one), (one, 255 - one), (one, crops(12)), (crops(12), one)):
        found = evaluate(pairs(originals, painted, 5), [Thumbnail()]).metrics
        assert all(np.isfinite(value) for value in found.values())
        assert found["rfd_thumbnail"] >= 0


def test_statistics_that_were_written_are_at_distance_nothing(tmp_path: Path) -> None:
    sample = FeatureStatistics(48)
    sample.update(Thumbnail()(crops(40)))
    write_reference(tmp_path / "own.npz", sample, Origin("rfd_thumbnail"))
    moments = read_reference(tmp_path / "own.npz").moments
    originals = crops(40)
    found = evaluate(pairs(originals, originals, 16), [Thumbnail()], external={"rfd_thumbnail": moments}).metrics
    assert found["rfd_thumbnail_reference"] == pytest.approx(0, abs=1e-9)


def test_a_reference_of_squashed_images_is_far_away_and_doubted(tmp_path: Path) -> None:
    """Squares that were resized without regard to their sides, as many scripts make them."""
    photos = [Image.fromarray(pixels) for pixels in read_photos()]
    cut = torch.from_numpy(np.stack([centre_crop(photo, 64) for photo in photos])).permute(0, 3, 1, 2)
    squashed = torch.from_numpy(np.stack([np.asarray(photo.resize((64, 64))) for photo in photos])).permute(0, 3, 1, 2)
    statistics = [FeatureStatistics(48), FeatureStatistics(48)]
    for each, images in zip(statistics, (cut, squashed), strict=True):
        each.update(Thumbnail()(images))
    assert frechet_distance(*statistics) > 1e-3
    wanted = Origin("rfd_thumbnail", "thumbnail", "images", evaluation_crop(64), len(photos))
    np.savez(tmp_path / "others.npz", mu=statistics[1].mean.numpy(), sigma=statistics[1].cov.numpy())
    write_reference(tmp_path / "ours.npz", statistics[1], replace(wanted, crop="squashed to 64 px"))
    for name, doubt in (("others", "does not say how its images were cropped"), ("ours", "were cropped otherwise")):
        assert doubt in " ".join(read_reference(tmp_path / f"{name}.npz").doubts(wanted))

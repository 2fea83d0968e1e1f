"""The evaluation as a whole: streamed, repeatable, and worse where reconstructions are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photographs import crops, noisy, pairs
from torch import Tensor

from drorae.metrics import image
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import FeatureStatistics, frechet_distance
from drorae.metrics.samples import FeatureSample


class Thumbnail(FeatureExtractor):
    """A quick extractor: the image at 4 x 4 pixels."""

    name, metric, kernel_metric = "thumbnail", "rfd_thumbnail", "kd_thumbnail"
    dim, input_size, fingerprint = 48, 4, "thumbnail"

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)


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

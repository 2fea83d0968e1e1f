"""Feature extractors against the networks that they are made of, and their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from photographs import crops, noisy, pairs

from drorae.config import EncoderConfig, EvaluationConfig
from drorae.errors import UserError
from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.models.encoder import load_encoder

CONFIG = EvaluationConfig(dinov2_size=28, effnet_size=32)


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

"""Looking inside: every number against numpy or a plain loop, on every variant there is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tiny import TINY_PROBE
from torch import nn
from torch.nn import functional as F

from drorae import config as settings
from drorae.commands.main import main
from drorae.config import (
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    FusionConfig,
    ImagesConfig,
    ObjectiveConfig,
    PhaseConfig,
    Runtime,
    TrialConfig,
)
from drorae.diagnostics.inspection import (
    energy_share,
    image_gradients,
    inspect,
    observe,
    principal_basis,
    routing_numbers,
    spectrum_difference,
    variance_share,
)
from drorae.models.tokenizer import Tokenizer
from drorae.trial.result import read_result
from drorae.trial.run import run_trial
from drorae.trial.shared import Workshop, open_workshop
from sweeps.tracking.pictures import draw_pictures

VARIANTS = get_args(settings.Variant)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, train=pixels[:32], val=pixels[32:])
    phase = PhaseConfig(epochs=1, batch_size=16, warmup_steps=1)
    return TrialConfig(
        images=ImagesConfig(source="npz", path=str(path)),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=32),
        fusion=FusionConfig(expert_hidden_dim=8, num_layers=3),
        decoder=DecoderConfig(32, 1, 2, 64),
        objective=ObjectiveConfig(perceptual="none"),
        phase1=phase,
        phase2=phase,
        evaluation=EvaluationConfig(extractors=()),
        probe=TINY_PROBE,
    )


def opened(config: TrialConfig, runtime: Runtime) -> tuple[Workshop, Tokenizer, torch.Tensor]:
    workshop = open_workshop(config, runtime)
    layers = workshop.val.batch(np.arange(5), 0, workshop.encoder.num_layers).layers.float()
    return workshop, workshop.tokenizer(), layers


def test_spectra_agree_with_numpy() -> None:
    first, second = torch.randint(0, 256, (2, 4, 3, 12, 16), dtype=torch.uint8, generator=torch.manual_seed(0))

    def spectrum(images: torch.Tensor) -> np.ndarray:
        luma = np.tensordot([0.299, 0.587, 0.114], images.numpy().astype(float), (0, 1))
        return np.log(1 + np.abs(np.fft.fftshift(np.fft.fft2(luma), axes=(1, 2))))

    expected = spectrum(first) - spectrum(second)
    assert np.allclose(spectrum_difference(first, second).numpy(), expected, rtol=0, atol=1e-10)


def test_the_mad_of_unrelated_spectra_is_the_one_documented() -> None:
    first, second = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(1))
    assert float(spectrum_difference(first, second).abs().mean()) == pytest.approx(math.log(2), abs=0.01)
    assert float(spectrum_difference(first, first).abs().max()) == 0


def test_principal_axes_agree_with_numpy_svd() -> None:
    tokens = np.random.default_rng(0).normal(size=(200, 7)) * [5, 3, 2, 1, 0.5, 0.2, 0.1] + 4
    basis = principal_basis(torch.from_numpy(tokens))
    centred = tokens - tokens.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    projected = basis.project(torch.from_numpy(tokens)).numpy()
    for index in range(3):
        expected = centred @ axes[index]
        sign = np.sign(expected @ projected[:, index])
        assert np.allclose(projected[:, index], sign * expected, atol=1e-9)
        assert basis.axes[:, index].abs().max() == basis.axes[:, index].max()
    share = variance_share(basis, torch.from_numpy(tokens))
    assert share == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), rel=1e-9)


def test_energy_shares() -> None:
    generator = torch.manual_seed(0)
    weights, outputs = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 3, 5, 8, generator=generator)
    weights[0, 0] = 0
    share = energy_share(weights, outputs)
    assert torch.allclose(share.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    assert torch.allclose(share[0, 0], torch.full((3,), 1 / 3, dtype=torch.float64))
    parts = [float(weights[1, 2, k] ** 2 * (outputs[1, k, 2] ** 2).sum()) for k in range(3)]
    assert share[1, 2].tolist() == pytest.approx([part / sum(parts) for part in parts], rel=1e-5)


def test_correlations_of_routing_agree_with_numpy() -> None:
    """Pearson's, image by image, of logits with gradients and of layers with each other."""
    generator = torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=generator)
    logits = torch.randn(3, 16, 4, generator=generator)
    luma = np.tensordot([0.299, 0.587, 0.114], pixels.numpy().astype(float), (0, 1))
    slopes = np.hypot(*np.gradient(luma, axis=(1, 2)))
    gradients = image_gradients(pixels, 4)
    assert np.allclose(gradients.numpy(), slopes.reshape(3, 4, 6, 4, 6).mean((2, 4)).reshape(3, 16), atol=1e-9)
    # A layer that follows the gradients, and one that does the opposite of another; an image that is all one colour.
    logits[..., 0] = gradients.float() * 3 + 1
    logits[..., 3] = -logits[..., 1]
    logits[2, :, 2] = 5.0
    numbers, between = routing_numbers(logits, gradients, np.array([2, 4, 5, 7]))
    for column, block in enumerate((2, 4, 5, 7)):
        images = range(2) if block == 5 else range(3)
        expected = np.mean([np.corrcoef(logits[image, :, column], gradients[image])[0, 1] for image in images])
        assert numbers[f"gradient_correlation_{block:02d}"] == pytest.approx(expected, abs=1e-6)
    assert numbers["gradient_correlation_02"] == pytest.approx(1, abs=1e-6)
    assert numbers["least_logit_correlation"] == pytest.approx(-1, abs=1e-6) and numbers["least_logit_pair"] == 407
    expected = np.mean([np.corrcoef(logits[image, :, 0], logits[image, :, 1])[0, 1] for image in range(3)])
    assert between[0, 1] == between[1, 0] == pytest.approx(expected, abs=1e-6) and between[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("router_input", ["raw", "normalised"])
@pytest.mark.parametrize("variant", ["softmax", "energy"])
def test_what_is_observed_is_what_the_fusion_does(
    config: TrialConfig, runtime: Runtime, variant: str, router_input: str
) -> None:
    fusion = replace(config.fusion, variant=variant, router_input=router_input)
    _, tokenizer, layers = opened(replace(config, fusion=fusion), runtime)
    seen = observe(tokenizer, layers)
    assert seen.logits is not None
    width = layers.shape[-1]

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (width,), eps=1e-6)

    chosen = layers[:, -3:]
    read = chosen if router_input == "raw" else norm(chosen)
    router, experts = tokenizer.fusion.router, tokenizer.fusion.experts
    assert isinstance(router, nn.Linear) and experts is not None
    logits = torch.cat(list(read.unbind(1)), dim=-1) @ router.weight.T + router.bias
    assert torch.allclose(seen.logits, logits, atol=1e-4)
    for k in range(3):
        hidden = F.layer_norm(norm(chosen[:, k]) @ experts.w1[k] + experts.b1[k], (8,))
        assert torch.allclose(seen.outputs[:, k], norm(hidden @ experts.w2[k] + experts.b2[k]), atol=1e-4)
    fused = norm(sum(seen.weights[..., k, None] * seen.outputs[:, k] for k in range(3)))
    assert torch.allclose(seen.fused, fused, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_inspected_and_drawn(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, variant: str
) -> None:
    workshop, tokenizer, layers = opened(replace(config, fusion=replace(config.fusion, variant=variant)), runtime)
    found = inspect(tokenizer, workshop.tokenizer(), workshop.val, 5)
    output, base = tokenizer.fuse(layers), tokenizer.base(layers)
    fused, flat = output.fused.numpy(), base.numpy()
    cosine = (fused * flat).sum(-1) / np.linalg.norm(fused, axis=-1) / np.linalg.norm(flat, axis=-1)
    assert np.allclose(found.arrays["cosine"], cosine.reshape(5, 2, 2), atol=1e-5)
    assert found.numbers["cos_fuse_base"] == pytest.approx(cosine.mean(), abs=1e-5)
    distance = np.linalg.norm(fused - flat, axis=-1)
    assert found.numbers["distance_fuse_base"] == pytest.approx(distance.mean(), abs=1e-4)
    assert found.numbers["images"] == 5 and all(map(math.isfinite, found.numbers.values()))
    shares = [value for name, value in found.numbers.items() if name.startswith("energy_share_")]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    found.save(tmp_path / "samples.npz", tmp_path / "inspection.npz", tmp_path / "inspection.json")
    names = {path.name for path in draw_pictures(tmp_path)}
    assert {"grid.png", "routing.png", "spectrum.png", "latents.png", "energy.png"} <= names
    assert ("logits.png" in names) == (tokenizer.fusion.router is not None)
    assert all((tmp_path / name).stat().st_size > 0 for name in names)


@pytest.mark.parametrize("encodes", [False, True])
def test_listed_layers_are_inspected_by_their_numbers(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, encodes: bool
) -> None:
    config = replace(config, fusion=FusionConfig(expert_hidden_dim=8, layers=(4, 7, 10)))
    if encodes:
        config = replace(config, phase2=replace(config.phase2, trains=("encoder",)))
    workshop, tokenizer, layers = opened(config, runtime)
    found = inspect(tokenizer, workshop.tokenizer(), workshop.val, 5)
    assert found.arrays["blocks"].tolist() == [4, 7, 10]
    named = {name for name in found.numbers if name.startswith("energy_share_")}
    assert named == {"energy_share_04", "energy_share_07", "energy_share_10"}
    read = F.layer_norm(layers[:, [3, 6, 9]], layers.shape[-1:], eps=1e-6)
    router = tokenizer.fusion.router
    assert isinstance(router, nn.Linear)
    logits = torch.cat(list(read.unbind(1)), dim=-1) @ router.weight.T + router.bias
    assert np.allclose(found.arrays["logits"], logits.transpose(1, 2).reshape(5, 3, 2, 2).detach(), atol=0.02)
    found.save(tmp_path / "samples.npz", tmp_path / "inspection.npz", tmp_path / "inspection.json")
    assert draw_pictures(tmp_path)


@pytest.mark.slow
def test_a_trial_keeps_its_inspection_and_probe(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_trial(config, directory=tmp_path / "trial", runtime=runtime)
    result = read_result(tmp_path / "trial")
    assert result is not None
    assert {"probe_loss", "probe_loss_t25", "probe_loss_t50", "probe_loss_t75", "probe_relative"} <= set(result.metrics)
    # A dot in a column's name marks a field of the config.
    assert not any("." in name for name in result.metrics)
    assert result.metrics["probe_images"] == 16
    kept = json.loads((tmp_path / "trial" / "inspection.json").read_text())
    assert sorted(name for name in kept if name.startswith("energy_share")) == [
        "energy_share_10", "energy_share_11", "energy_share_12",
    ]  # fmt: skip
    options = ["--cache-dir", runtime.cache_dir, "--device", "cpu", "--threads", "1", "--json"]
    assert main(["inspect", str(tmp_path / "trial"), "--out", str(tmp_path / "out"), *options]) == 0
    assert json.loads(capsys.readouterr().out) == kept
    assert {"grid.png", "spectrum.png", "inspection.npz"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert main(["probe", str(tmp_path / "trial"), *options]) == 0
    probed = json.loads(capsys.readouterr().out)
    assert probed == {name: value for name, value in result.metrics.items() if name.startswith("probe_")}
    assert main(["probe", str(tmp_path / "trial"), "--set", "scale=base", *options]) == 0
    assert json.loads(capsys.readouterr().out)["probe_loss"] != probed["probe_loss"]
    assert main(["probe", str(tmp_path / "trial"), "--set", "heads=3"]) == 2
    assert "probe.heads=3" in capsys.readouterr().err

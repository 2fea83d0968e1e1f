"""The budget against counts made by hand, product by product."""

from __future__ import annotations

import dataclasses

import pytest

from drorae.config import DECODERS, PRESETS, Runtime, override
from drorae.machine.needs import Budget, budget, needed_weights

IMAGES = 1_281_167
C, L, H, N = 768, 12, 3072, 256
"""Encoder width, blocks, expert width, tokens of the paper's setting."""


@pytest.fixture(scope="module")
def paper() -> Budget:
    return budget(PRESETS["paper"], Runtime(), IMAGES)


def vit_flops(depth: int, width: int, mlp: int, tokens: int) -> float:
    """Forward: queries, keys, values and output, the MLP, and the two products of attention."""
    return depth * (2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width)


def test_parameters_of_the_papers_setting(paper: Budget) -> None:
    assert paper.params["fusion"] == 56_779_788
    block = 4 * 1152**2 + 2 * 1152 * 4096 + 4 * 1152 + 4096 + 1152 + 4 * 1152
    decoder = 28 * block + (768 * 1152 + 1152) + 1152 + 2 * 1152 + (1152 * 768 + 768)
    assert paper.params["decoder"] == pytest.approx(decoder, rel=0.001)
    assert paper.params["encoder"] == pytest.approx(86e6, rel=0.05)
    assert paper.params["perceptual"] == 14_714_688, "VGG16's convolutions"


def test_arithmetic_of_the_papers_setting(paper: Budget) -> None:
    one, two, three = (phase.flops_per_image for phase in paper.phases)
    encoder = vit_flops(12, C, 4 * C, N + 5) + 2 * N * 3 * 14**2 * C
    assert one["encoder"] == pytest.approx(encoder, rel=0.05)
    forward = vit_flops(28, 1152, 4096, N + 1) + 2 * N * (768 * 1152 + 1152 * 768)
    assert one["decoder"] == pytest.approx(3 * forward, rel=0.05), "twice as much back as forth"
    assert two["decoder"] == pytest.approx(2 * forward, rel=0.05), "frozen: back to the latent alone"
    assert three["decoder"] == one["decoder"]
    fusion = 2 * N * L * (2 * C * H + C * L)
    assert three["fusion"] == pytest.approx(fusion, rel=0.05)
    # Back to the experts' weights and hidden layer, not to the encoder's features.
    assert two["fusion"] == pytest.approx(2 * N * L * (2 * C * H * 2.5 + 2 * C * L), rel=0.05)
    assert one["fusion"] == 0
    convolutions = [(64, 3, 256), (64, 64, 256), (128, 64, 128), (128, 128, 128), (256, 128, 64)]
    convolutions += 2 * [(256, 256, 64)] + [(512, 256, 32)] + 2 * [(512, 512, 32)] + 3 * [(512, 512, 16)]
    vgg = sum(2 * 9 * a * b * side**2 for a, b, side in convolutions)
    assert one["perceptual"] == pytest.approx(3 * vgg, rel=0.05), "original, reconstruction, and back"


def test_steps_memory_and_hours(paper: Budget) -> None:
    phases = {phase.name: phase for phase in paper.phases}
    assert phases["phase1"].steps == 100 * (IMAGES // 256) == phases["phase2"].steps
    assert phases["phase3"].steps == 20 * (IMAGES // 256)
    assert phases["phase2"].optimiser_bytes == pytest.approx(16 * 56_779_788 + 12 * paper.params["discriminator heads"])
    block = 256 * 257 * (34 - 16 + 4 * 4096 / 1152) * 1152
    assert phases["phase1"].activation_bytes == pytest.approx(28 * block, rel=0.05)
    total = sum(phase.images * sum(phase.flops_per_image.values()) for phase in paper.phases)
    assert paper.hours(1e15) == pytest.approx(total / 3.6e18)


def test_what_saves_memory_and_time_shows() -> None:
    config = override(override(PRESETS["paper"], "images.views", 1), "objective.gan_weight", 0)
    config = dataclasses.replace(config, decoder=DECODERS["B"])
    plain, small = (budget(config, Runtime(micro_batch=size), 1024).phases[0] for size in (0, 32))
    assert plain.flops_per_image["encoder"] == 0 and plain.flops_per_image["gan"] == 0, "cached, and no discriminator"
    assert small.activation_bytes == pytest.approx(plain.activation_bytes / 8)
    again = budget(config, Runtime(activation_checkpointing=True), 1024).phases[0]
    assert again.activation_bytes < plain.activation_bytes / 4
    assert again.flops_per_image["decoder"] == pytest.approx(plain.flops_per_image["decoder"] * 4 / 3, rel=0.05)


def test_a_released_decoder_spares_phase_1() -> None:
    config = override(PRESETS["paper"], "decoder.weights", "/nowhere/decoder.pt")
    assert [phase.name for phase in budget(config, Runtime(), 1024).phases] == ["phase2", "phase3"]
    missing = {item.what: item for item in needed_weights(config)}
    assert set(missing) == {"encoder", "discriminator", "LPIPS", "Inception", "decoder"}
    assert not missing["decoder"].here and "nowhere" in missing["decoder"].where

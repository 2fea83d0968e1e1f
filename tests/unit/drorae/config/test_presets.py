"""What the named configs promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drorae.config import DECODERS, PRESETS, config_hash
from drorae.config.presets import RAE_DISCRIMINATOR


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_own_and_its_sizes_divide(name: str) -> None:
    config = PRESETS[name]
    assert config.decoder.width % config.decoder.heads == 0
    assert config.images.resize == 0 or config.images.resize >= config.images.size
    assert len({config_hash(preset) for preset in PRESETS.values()}) == len(PRESETS)
    with pytest.raises(TypeError):
        PRESETS[name] = config  # type: ignore[index]


def test_the_paper_s_preset_is_the_published_setting() -> None:
    """arXiv 2605.10780, Table 5, and RAE's recipe."""
    paper = PRESETS["paper"]
    phases = (paper.phase1, paper.phase2, paper.phase3)
    assert [phase.epochs for phase in phases] == [100, 100, 20]
    assert {(phase.batch_size, phase.lr, phase.betas, phase.precision) for phase in phases} == {
        (256, 1e-4, (0.5, 0.9), "bf16")
    }
    assert (paper.images.size, paper.images.resize, paper.encoder.input_size) == (256, 384, 224)
    assert (paper.fusion.variant, paper.fusion.beta, paper.fusion.expert_hidden_dim) == ("energy", 0.2, 3072)
    assert (paper.objective.perceptual, paper.objective.perceptual_weight) == ("lpips_vgg", 1.0)
    assert "inception" in paper.evaluation.extractors
    expected = replace(RAE_DISCRIMINATOR, lr=1e-4, final_lr=2e-5, betas=(0.5, 0.9), weight_decay=0.05)
    assert paper.discriminator == expected
    assert paper.phase3 == replace(paper.phase1, epochs=20), "all other hyperparameters remain identical to phase 1"


@pytest.mark.parametrize(
    ("name", "output"), [("paper", "encoder"), ("rae", "encoder"), ("raev2", "none"), ("hirae", "none")]
)
def test_published_decoders_are_raes_largest_with_its_initialisation(name: str, output: str) -> None:
    """All other fields, a released decoder's weights and the seed among them, are those of `DECODERS["XL"]`."""
    decoder = PRESETS[name].decoder
    assert (decoder.init, decoder.output) == ("linear", output)
    assert replace(decoder, init=DECODERS["XL"].init, output=DECODERS["XL"].output) == DECODERS["XL"]


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_other_presets_need_no_download(name: str) -> None:
    config = PRESETS[name]
    assert (config.images.source, config.encoder.weights, config.objective.perceptual) == (
        "photos", "offline", "effnet"
    )  # fmt: skip
    assert config.objective.gan_weight == 0 and "inception" not in config.evaluation.extractors

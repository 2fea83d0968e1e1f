"""Named configs: the decoder sizes, and the trials that a sweep or a command begins with."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from drorae.config.phases import PhaseConfig
from drorae.config.schema import (
    DecoderConfig,
    DiscriminatorConfig,
    EncoderConfig,
    EvaluationConfig,
    FusionConfig,
    ImagesConfig,
    ObjectiveConfig,
    TrialConfig,
)

Scale = Literal["smoke", "quickstart", "paper"]
"""Presets at which the paper's experiments can be run."""
DECODERS = {
    "tiny": DecoderConfig(128, 2, 4, 512),
    "small": DecoderConfig(192, 3, 4, 768),
    # RAE's released sizes (arXiv 2510.11690, decoder configurations of the published code)
    "B": DecoderConfig(768, 12, 12, 3072),
    "L": DecoderConfig(1024, 24, 16, 4096),
    "XL": DecoderConfig(1152, 28, 16, 4096),
}

RAE_DISCRIMINATOR = DiscriminatorConfig(fakes="repainted", augment="shift_first", power_iterations=2, decay="phase")
"""As RAE's code trains it (its src/train_stage1.py and src/disc); RAEv2 and HiRAE name the same."""


def _paper() -> TrialConfig:
    """The published setting (arXiv 2605.10780, Table 5; RAE's recipe, arXiv 2510.11690, where it is silent)."""
    recipe = PhaseConfig(
        100, 256, lr=1e-4, final_lr=2e-5, warmup_steps=5004, betas=(0.5, 0.9), weight_decay=0.05, clip_norm=0.0,
        ema_decay=0.9978, precision="bf16",
    )  # fmt: skip
    # RAE's discriminator learns for two of the eight epochs before it is heard.
    learns = replace(recipe, latent_noise=0.8, disc_start_steps=22500, gan_start_steps=30000)
    return TrialConfig(
        images=ImagesConfig(source="folder", path="imagenet", size=256, resize=384, views=0),
        encoder=EncoderConfig(name="vit_base_patch14_reg4_dinov2", weights="hub", input_size=224, resize="plain"),
        fusion=FusionConfig(),
        decoder=replace(DECODERS["XL"], init="linear", output="encoder"),
        # The paper gives lambda_p = 1 and no lambda_g: RAE's 0.75.
        objective=ObjectiveConfig(perceptual="lpips_vgg", perceptual_weight=1.0, gan_weight=0.75),
        discriminator=replace(RAE_DISCRIMINATOR, lr=1e-4, betas=(0.5, 0.9), weight_decay=0.05),
        phase1=learns,
        phase2=replace(recipe, disc_start_steps=7500, gan_start_steps=10000),
        # "All other hyperparameters remain identical to Phase 1" (its Appendix A): warm-ups and noise among them.
        phase3=replace(learns, epochs=20),
        evaluation=EvaluationConfig(
            ("inception", "dinov2", "effnet"), dinov2_size=224, effnet_size=224, quantise="truncate", lpips="vgg"
        ),
    )


PRESETS: Mapping[str, TrialConfig] = types.MappingProxyType(
    {
        "quickstart": TrialConfig(images=ImagesConfig(train_images=2000, val_images=800)),
        "smoke": TrialConfig(
            images=ImagesConfig(train_images=96, val_images=64),
            decoder=DECODERS["tiny"],
            phase1=PhaseConfig(epochs=2, batch_size=32, warmup_steps=2),
            phase2=PhaseConfig(epochs=2, batch_size=32, warmup_steps=2),
            fusion=FusionConfig(expert_hidden_dim=32),
        ),
        "paper": _paper(),
    }
)

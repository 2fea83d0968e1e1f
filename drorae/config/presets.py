"""Named configs: the decoder sizes, and the trials that a sweep or a command begins with."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from drorae.config.phases import UNTRAINED, PhaseConfig
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
"""As RAE's code trains it (its src/train_stage1.py and src/disc), and RAEv2's (its src/stage1/engine.py)."""
IMAGENET = ImagesConfig(source="folder", path="imagenet", size=256, resize=384, views=0, resampling="torch")
"""As RAE cuts ImageNet: Resize(384), RandomCrop(256), a fresh crop every epoch. Its bicubic is Pillow's, which takes
nearly twice as long for crops within 2 of 255 of these."""
DINOV2 = EncoderConfig(name="vit_base_patch14_reg4_dinov2", weights="hub", input_size=224, resize="plain")
"""RAE's and the paper's encoder, as RAE feeds it."""
DINOV3 = EncoderConfig(name="vit_large_patch16_dinov3.lvd1689m", weights="hub", input_size=256, resize="plain")
"""RAEv2's and HiRAE's encoder, which sees the crop as it is."""
PUBLISHED_LOSS = ObjectiveConfig(perceptual="lpips_vgg", perceptual_weight=1.0, gan_weight=0.75)
"""RAE's. The paper gives lambda_p = 1 and no lambda_g."""
PUBLISHED_METRICS = EvaluationConfig(
    ("inception", "effnet2", "dinov2"), dinov2_size=224, effnet2_size=224, quantise="truncate", lpips="vgg"
)


def _rae_phase(batch_size: int, steps_per_epoch: int) -> PhaseConfig:
    """RAE's recipe, which RAEv2 and HiRAE keep: 16 epochs, of which one warms up.

    The heads learn after six of them and are heard after eight.
    """
    return PhaseConfig(
        16, batch_size, lr=2e-4, final_lr=2e-5, warmup_steps=steps_per_epoch, betas=(0.9, 0.95), clip_norm=0.0,
        ema_decay=0.9978, latent_noise=0.8, disc_start_steps=6 * steps_per_epoch, gan_start_steps=8 * steps_per_epoch,
        precision="bf16",
    )  # fmt: skip


def _rae() -> TrialConfig:
    """RAE's released recipe (arXiv 2510.11690; its configs/stage1/training/DINOv2-B_decXL.yaml)."""
    return TrialConfig(
        images=IMAGENET,
        encoder=DINOV2,
        fusion=FusionConfig(variant="last", incremental=False),
        decoder=replace(DECODERS["XL"], init="linear", output="encoder"),
        objective=PUBLISHED_LOSS,
        discriminator=RAE_DISCRIMINATOR,
        # 1,281,167 images in whole batches of 512.
        phase1=_rae_phase(512, 2502),
        phase2=UNTRAINED,
        phase3=UNTRAINED,
        evaluation=PUBLISHED_METRICS,
    )


def _raev2() -> TrialConfig:
    """RAEv2's released recipe (arXiv 2605.18324; its configs/stage1/training/dinov3l-k7-imagenet.yaml)."""
    return replace(
        _rae(),
        # It reads images that were cut to 256 px beforehand.
        images=replace(IMAGENET, resize=0),
        encoder=DINOV3,
        fusion=FusionConfig(variant="mean_dc", incremental=False, layers=(12, 14, 16, 18, 20, 22, 24)),
        decoder=replace(DECODERS["XL"], init="linear", output="none"),
        phase1=replace(_rae_phase(512, 2502), latent="fused"),
    )


def _hirae() -> TrialConfig:
    """HiRAE-24 (arXiv 2609.37775, Table 10 and Appendix A): fusion and decoder together, from the beginning."""
    return replace(
        _rae(),
        encoder=DINOV3,
        fusion=FusionConfig(variant="hirae", expert_hidden_dim=4096),
        # It says nothing of the output; this is RAEv2's, which it is compared with on the same encoder.
        decoder=replace(DECODERS["XL"], init="linear", output="none"),
        phase1=UNTRAINED,
        # 1,281,167 images in whole batches of 128.
        phase2=replace(_rae_phase(128, 10009), trains=("fusion", "decoder"), start="fresh"),
    )


def _paper() -> TrialConfig:
    """The published setting (arXiv 2605.10780, Table 5; RAE's recipe, arXiv 2510.11690, where it is silent)."""
    recipe = PhaseConfig(
        100, 256, lr=1e-4, final_lr=2e-5, warmup_steps=5004, betas=(0.5, 0.9), weight_decay=0.05, clip_norm=0.0,
        ema_decay=0.9978, precision="bf16",
    )  # fmt: skip
    # RAE's discriminator learns for two of the eight epochs before it is heard.
    learns = replace(recipe, latent_noise=0.8, disc_start_steps=22500, gan_start_steps=30000)
    return replace(
        _rae(),
        fusion=FusionConfig(),
        discriminator=replace(RAE_DISCRIMINATOR, lr=1e-4, betas=(0.5, 0.9), weight_decay=0.05),
        phase1=learns,
        phase2=replace(recipe, disc_start_steps=7500, gan_start_steps=10000),
        # "All other hyperparameters remain identical to Phase 1" (its Appendix A): warm-ups and noise among them.
        phase3=replace(learns, epochs=20),
    )


PRESETS: Mapping[str, TrialConfig] = types.MappingProxyType(
    {
        "quickstart": TrialConfig(
            images=ImagesConfig(train_images=6000, val_images=2400),
            fusion=FusionConfig(expert_hidden_dim=40),
            phase1=PhaseConfig(epochs=8, batch_size=32, lr=2e-3, precision="auto"),
            phase2=PhaseConfig(epochs=3, batch_size=32, lr=4e-3, lr_width=40, precision="auto"),
            evaluation=EvaluationConfig(("effnet2",)),
        ),
        "smoke": TrialConfig(
            images=ImagesConfig(train_images=96, val_images=64),
            decoder=DECODERS["tiny"],
            phase1=PhaseConfig(epochs=2, batch_size=32, warmup_steps=2),
            phase2=PhaseConfig(epochs=2, batch_size=32, warmup_steps=2),
            fusion=FusionConfig(expert_hidden_dim=32),
        ),
        "paper": _paper(),
        "rae": _rae(),
        "raev2": _raev2(),
        "hirae": _hirae(),
    }
)

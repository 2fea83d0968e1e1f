"""The smallest trial that goes through every station, for tests of how trials run rather than of what they learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from drorae.config import (
    DecoderConfig,
    DiscriminatorConfig,
    EncoderConfig,
    EvaluationConfig,
    FusionConfig,
    ImagesConfig,
    ObjectiveConfig,
    PhaseConfig,
    ProbeConfig,
    TrialConfig,
)

TINY_PROBE = ProbeConfig(
    steps=3, width=32, depth=1, heads=2, batch_size=16, draws=1, head_width=32, head_depth=1, head_heads=2
)


def tiny_images(path: Path) -> Path:
    """An .npz of 32 training and 16 validation images of 32 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 4, 4, 3))
    smooth = np.kron(pixels, np.ones((1, 8, 8, 1))).astype(np.uint8)
    np.savez(path, train=smooth[:32], val=smooth[32:])
    return path


def tiny_config(images: Path, **fields: object) -> TrialConfig:
    """A trial of four steps a phase on an untrained encoder of four tokens; `fields` of TrialConfig replace its own."""
    phase = PhaseConfig(epochs=2, batch_size=16, warmup_steps=1, latent_noise=0.1)
    own: dict[str, object] = {
        "images": ImagesConfig(source="npz", path=str(images)),
        "encoder": EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=32, feature_dtype="fp32"),
        "fusion": FusionConfig(expert_hidden_dim=8),
        "decoder": DecoderConfig(32, 2, 2, 64),
        "objective": ObjectiveConfig(perceptual="none"),
        "discriminator": DiscriminatorConfig(name="vit_tiny_patch16_224", weights="random", input_size=32),
        "phase1": phase,
        "phase2": phase,
        "evaluation": EvaluationConfig(extractors=("effnet",)),
    }
    return TrialConfig(**{**own, **fields})  # type: ignore[arg-type]


def at_the_end(metrics: Mapping[str, float]) -> dict[str, float]:
    """A trial's metrics without those that it had after an earlier phase than its last."""
    return {name: value for name, value in metrics.items() if not name.startswith("phase2.")}

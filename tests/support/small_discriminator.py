"""The smallest discriminator, and images for it."""

from __future__ import annotations

import torch

from drorae.config import DiscriminatorConfig

CPU = torch.device("cpu")
TINY = DiscriminatorConfig(name="vit_tiny_patch16_224", weights="random", input_size=64, lr=2e-2, final_lr=1e-2)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))

"""A fusion of five layers of seven tokens."""

from __future__ import annotations

import torch
from torch import nn

from drorae.config import FusionConfig
from drorae.models.fusion.registry import LayerFusion

WIDTH, LAYERS, TOKENS = 24, 5, 7


def fusion(norm: nn.LayerNorm, **options: object) -> LayerFusion:
    torch.manual_seed(0)
    return LayerFusion(FusionConfig(**{"expert_hidden_dim": 16, **options}), LAYERS, norm)

"""How large a fusion module is: the paper's formula, and the count of what is really there."""

from __future__ import annotations

import torch
from torch import nn

from drorae.config import FusionConfig
from drorae.models.fusion.registry import LayerFusion


def paper_params(num_layers: int, width: int, expert_hidden_dim: int) -> int:
    """n(C h + h + h C + C) + C n^2 + n of softmax and energy: experts and router with their biases.

    The paper's axis of capacity.
    arXiv 2605.10780, Appendix C, prints the second bias as h, which a Linear(h, C) does not have. The printed
    sizes of its tables are met to within 0.14 M (0.21 M with the bias as printed); no formula rounds to all.
    """
    n, c, h = num_layers, width, expert_hidden_dim
    return n * (c * h + h + h * c + c) + c * n * n + n


def exact_params(module: nn.Module) -> int:
    """Number of trainable scalars in a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def fusion_params(config: FusionConfig, num_layers: int, width: int) -> int:
    """The exact count for a config on an encoder of `num_layers` blocks and `width`, without allocating it."""
    with torch.device("meta"):
        return exact_params(LayerFusion(config, num_layers, nn.LayerNorm(width)))

"""One two-layer MLP per encoder layer, all evaluated together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drorae.config import FusionConfig

ACTIVATIONS = {"none": None, "gelu": F.gelu, "silu": F.silu}


class Experts(nn.Module):
    """e_k = Linear(C, h) -> LayerNorm -> activation -> Linear(h, C) for k = 1 .. n (arXiv 2605.10780, App. A).

    The n experts are one batched matrix product each way. Initialisation is that of `nn.Linear`
    (uniform, +-1/sqrt(fan_in)); the paper gives none.
    """

    def __init__(self, config: FusionConfig, num_layers: int, width: int) -> None:
        super().__init__()
        n, c, h = num_layers, width, config.expert_hidden_dim
        self.w1 = nn.Parameter(torch.empty(n, c, h))
        self.b1 = nn.Parameter(torch.empty(n, 1, h))
        self.w2 = nn.Parameter(torch.empty(n, h, c))
        self.b2 = nn.Parameter(torch.empty(n, 1, c))
        self.norm_scale = nn.Parameter(torch.ones(n, 1, h)) if config.expert_norm == "layer_affine" else None
        self.norm_shift = nn.Parameter(torch.zeros(n, 1, h)) if config.expert_norm == "layer_affine" else None
        self.normalise = config.expert_norm != "none"
        self.activation = ACTIVATIONS[config.activation]
        for weight, fan_in in ((self.w1, c), (self.b1, c), (self.w2, h), (self.b2, h)):
            nn.init.uniform_(weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """X [n, tokens, C] -> [n, tokens, C]: expert k on layer k's tokens."""
        return torch.baddbmm(self.b2, self.hidden(torch.baddbmm(self.b1, x, self.w1)), self.w2)

    def hidden(self, first: Tensor) -> Tensor:
        """First layer's outputs [n, tokens, h] -> the same after norm and activation."""
        if self.normalise:
            first = F.layer_norm(first, first.shape[-1:])
        if self.norm_scale is not None and self.norm_shift is not None:
            first = first * self.norm_scale.to(first.dtype) + self.norm_shift.to(first.dtype)
        return first if self.activation is None else self.activation(first)

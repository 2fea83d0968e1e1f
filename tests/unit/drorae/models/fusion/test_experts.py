"""The experts, all at once, against a plain loop of nn.Linear."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_fusion import LAYERS, WIDTH
from torch import nn

from drorae.config import FusionConfig
from drorae.models.fusion.experts import Experts


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("expert_norm", ["layer", "none"])
def test_experts_equal_a_loop_of_linear_layers(activation: str, expert_norm: str) -> None:
    config = FusionConfig(expert_hidden_dim=16, activation=activation, expert_norm=expert_norm)
    torch.manual_seed(1)
    experts = Experts(config, LAYERS, WIDTH).double()
    x = torch.randn(LAYERS, 11, WIDTH, dtype=torch.float64)
    together = experts(x)
    for k in range(LAYERS):
        first, second = nn.Linear(WIDTH, 16).double(), nn.Linear(16, WIDTH).double()
        first.weight.data, first.bias.data = experts.w1[k].T, experts.b1[k, 0]
        second.weight.data, second.bias.data = experts.w2[k].T, experts.b2[k, 0]
        hidden = first(x[k])
        hidden = nn.LayerNorm(16, elementwise_affine=False)(hidden) if expert_norm == "layer" else hidden
        hidden = F.gelu(hidden) if activation == "gelu" else hidden
        assert torch.allclose(together[k], second(hidden), rtol=1e-12, atol=1e-12)

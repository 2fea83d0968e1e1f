"""Weights out of the router."""

from __future__ import annotations

import torch
from small_fusion import TOKENS, fusion
from torch import nn


def test_energy_routing_ignores_a_positive_rescaling(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    module = fusion(norm, eps=1e-12).double()
    before = module(layers.double())
    with torch.no_grad():
        module.router.weight.mul_(50)
        module.router.bias.mul_(50)
    after = module(layers.double())
    assert torch.allclose(before.latent, after.latent, atol=1e-8)
    assert torch.allclose(after.weights.square().sum(-1), torch.ones(3, TOKENS, dtype=torch.float64))
    assert (after.weights < 0).any()


def test_softmax_weights_are_positive_and_sum_to_one(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    weights = fusion(norm, variant="softmax")(layers).weights
    assert (weights > 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(3, TOKENS))

"""Weights out of the router."""

from __future__ import annotations

import math

import pytest
import torch
from small_fusion import TOKENS, fusion
from torch import nn

from drorae.models.fusion import routing


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


def test_weights_by_hand() -> None:
    logits = torch.tensor([[3.0, -4.0]])
    assert routing.energy(logits, 0.0).tolist() == [pytest.approx([0.6, -0.8])]
    assert routing.energy(logits, 75.0).tolist() == [pytest.approx([0.3, -0.4])]
    assert routing.unit(logits, 1e-6).tolist() == [pytest.approx([0.6, -0.8])]
    assert routing.unit(logits, 100.0).tolist() == [pytest.approx([0.3, -0.4])]
    assert routing.softmax(torch.tensor([[0.0, math.log(3)]]), 0.0).tolist() == [pytest.approx([0.25, 0.75])]

"""The latent without the experts' outputs against the plain forward pass, with gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drorae.config import FusionConfig
from drorae.models.fusion.mixture import weighted_outputs
from drorae.models.fusion.registry import LayerFusion

WIDTH, LAYERS = 48, 5
FORMS = [
    form
    for form in itertools.product(
        ("energy", "softmax"), (True, False), ("none", "gelu"), ("none", "layer_affine"), ("normalised", "raw")
    )
    # Each option with each other at least once, rather than all with all.
    if sum(value in (False, "gelu", "layer_affine", "raw", "softmax") for value in form) in (0, 2, 5)
]


def gradients(output: Tensor, weights: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad((output * weights).sum(), list(module.parameters())))


@pytest.mark.parametrize("hidden", [4, 40])
@pytest.mark.parametrize(("variant", "incremental", "activation", "expert_norm", "router_input"), FORMS)
@pytest.mark.parametrize("affine", [False, True])
def test_the_latent_alone_is_that_of_the_forward_pass(
    variant: str, incremental: bool, activation: str, expert_norm: str, router_input: str, hidden: int, affine: bool
) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH, eps=1e-6, elementwise_affine=affine).double()
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    config = FusionConfig(
        variant=variant, incremental=incremental, activation=activation, expert_norm=expert_norm,
        router_input=router_input, expert_hidden_dim=hidden,
    )  # fmt: skip
    fusion = LayerFusion(config, LAYERS, norm).double()
    layers = torch.randn(3, LAYERS, 7, WIDTH, dtype=torch.float64) * 3 + 1
    weights = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    plain, fast = fusion(layers).latent, fusion.latent(layers)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    for found, expected in zip(gradients(fast, weights, fusion), gradients(plain, weights, fusion), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("hidden", [3, 9])
def test_gradients_of_the_sum_are_finite_differences(hidden: int) -> None:
    torch.manual_seed(0)
    shapes = [(3, 4, hidden), (3, hidden, 20), (3, 1, 20), (4, 3)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *rows: weighted_outputs(*rows, 1e-6, torch.float64), given)


@pytest.mark.parametrize("hidden", [8, 64])
def test_bf16_products_stay_within_bf16_s_rounding(hidden: int) -> None:
    """Layers in bfloat16, as the store has them, against the forward pass in float64."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(96, eps=1e-6, elementwise_affine=False)
    fusion = LayerFusion(FusionConfig(expert_hidden_dim=hidden), 12, norm)
    layers = (3 * torch.randn(8, 12, 16, 96)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        short = fusion.latent(layers)
    assert short.dtype == torch.float32
    weights = torch.randn_like(short)
    found = gradients(short, weights, fusion)
    exact = fusion.double()(layers.double()).latent
    assert (short - exact).norm() < 4e-3 * exact.norm()
    for value, expected in zip(found, gradients(exact, weights.double(), fusion), strict=True):
        assert F.cosine_similarity(value.double().flatten(), expected.flatten(), dim=0) > 0.9998

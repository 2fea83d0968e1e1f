"""The fusion module and its variants against the paper's formulas and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_fusion import LAYERS, TOKENS, WIDTH, fusion
from torch import nn

from drorae.config import FusionConfig
from drorae.errors import UserError
from drorae.models.fusion.registry import LayerFusion
from drorae.models.fusion.size import exact_params


@pytest.mark.parametrize("router_input", ["raw", "normalised"])
def test_forward_is_the_papers_equations(norm: nn.LayerNorm, layers: torch.Tensor, router_input: str) -> None:
    """Eqs. 2-5 written out token by token."""
    module = fusion(norm, router_input=router_input).double()
    layers = layers.double()
    out = module(layers)
    assert module.experts is not None and module.router is not None
    for b in range(layers.shape[0]):
        for t in range(TOKENS):
            z = layers[b, :, t]
            read = z if router_input == "raw" else norm(z)
            w = module.router.weight @ read.reshape(-1) + module.router.bias
            h = torch.stack([norm(module.experts(norm(z)[:, None])[k, 0]) for k in range(LAYERS)])
            fused = norm((w[:, None] * h).sum(0) / torch.sqrt((w**2).sum() + 1e-6))
            base = norm(z[-1])
            assert torch.allclose(out.fused[b, t], fused, atol=1e-10)
            assert torch.allclose(out.latent[b, t], norm(base + 0.2 * (fused - base)), atol=1e-10)


def test_beta_zero_is_the_rae_baseline_exactly(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    base = norm(layers[:, -1])
    for variant in ("mean", "mean_dc", "cross_attention", "softmax", "energy"):
        assert torch.equal(fusion(norm, variant=variant, beta=0.0)(layers).latent, base)
    assert torch.equal(fusion(norm, variant="last")(layers).latent, base)


def test_small_beta_approaches_the_baseline(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    latent = fusion(norm, beta=1e-6)(layers).latent
    assert torch.allclose(latent, norm(layers[:, -1]), atol=1e-4)


def test_mean_has_nothing_to_train(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    module = fusion(norm, variant="mean", incremental=False)
    assert exact_params(module) == 0
    assert torch.allclose(module(layers).latent, norm(layers).mean(1))


def test_mean_dc_adds_the_last_layers_spatial_mean(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    plain = fusion(norm, variant="mean", incremental=False)(layers).latent
    latent = fusion(norm, variant="mean_dc", incremental=False)(layers).latent
    added = norm(layers[:, -1]).mean(1, keepdim=True)
    assert torch.allclose(latent, plain + added, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "incremental"),
    [*itertools.product(["energy", "softmax", "cross_attention"], [True, False]), ("hirae", True)],
)
def test_gradients_against_finite_differences(norm: nn.LayerNorm, variant: str, incremental: bool) -> None:
    torch.manual_seed(0)
    small = nn.LayerNorm(6, eps=1e-6, elementwise_affine=False).double()
    config = FusionConfig(variant=variant, incremental=incremental, expert_hidden_dim=4, activation="gelu")
    module = LayerFusion(config, 3, small).double().eval()
    names = [name for name, _ in module.named_parameters()]
    values = tuple(parameter.detach().clone().requires_grad_() for parameter in module.parameters())
    layers = torch.randn(1, 3, 2, 6, dtype=torch.float64)

    def latent(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), (layers,)).latent

    assert torch.autograd.gradcheck(latent, values, eps=1e-6, atol=1e-5)


def test_fewer_layers_are_the_deepest(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    module = fusion(norm, num_layers=2)
    changed = layers.clone()
    changed[:, :-2] = 99.0
    assert torch.equal(module(layers).latent, module(changed).latent)
    assert module(layers).weights.shape == (3, TOKENS, 2)
    with pytest.raises(UserError, match="use 1 to 5"):
        fusion(norm, num_layers=6)


def test_fusion_does_not_own_the_encoders_norm(layers: torch.Tensor) -> None:
    affine = nn.LayerNorm(WIDTH)
    assert not any("norm.weight" in name for name in fusion(affine).state_dict())

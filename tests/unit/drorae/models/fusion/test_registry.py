"""The fusion module and its variants against the paper's formulas and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_fusion import LAYERS, TOKENS, WIDTH, fusion
from torch import nn

from drorae.config import FusionConfig
from drorae.errors import UserError
from drorae.models.fusion.registry import VARIANTS, LayerFusion
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


FUSIONS = [name for name in VARIANTS if name != "last"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_deepest_as_a_list_are_the_deepest_by_number(
    norm: nn.LayerNorm, layers: torch.Tensor, variant: str
) -> None:
    listed = fusion(norm, variant=variant, layers=(3, 4, 5)).eval()
    numbered = fusion(norm, variant=variant, num_layers=3).eval()
    assert torch.equal(listed(layers).latent, numbered(layers).latent)
    assert listed.reads == (1 if variant == "last" else 3) and numbered.reads == 3


@pytest.mark.parametrize("variant", FUSIONS)
def test_listed_layers_are_the_only_ones_fused(norm: nn.LayerNorm, layers: torch.Tensor, variant: str) -> None:
    """Blocks 2 and 4 of five, counted from 1, as if they were the whole encoder before its last block."""
    module = fusion(norm, variant=variant, layers=(2, 4)).eval()
    assert (module.blocks, module.num_layers, module.reads) == ((2, 4), 2, 4)
    out = module(layers)
    assert out.weights.shape == (3, TOKENS, 2)
    assert torch.equal(out.latent, module(layers[:, 1:]).latent)
    changed = layers.clone()
    changed[:, [0, 2]] = torch.randn_like(changed[:, [0, 2]])
    assert torch.equal(out.latent, module(changed).latent)
    for read in (1, 3):
        changed = layers.clone()
        changed[:, read] = torch.randn_like(changed[:, read])
        assert not torch.allclose(out.latent, module(changed).latent, atol=1e-4)


def test_the_mean_of_a_list_is_raev2_s(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    expected = norm(layers[:, [1, 3]]).mean(1)
    for variant, added in (("mean", 0.0), ("mean_dc", norm(layers[:, -1]).mean(1, keepdim=True))):
        latent = fusion(norm, variant=variant, layers=(2, 4), incremental=False)(layers).latent
        assert torch.allclose(latent, expected + added, atol=1e-6)


@pytest.mark.parametrize("variant", FUSIONS)
def test_a_correction_starts_from_the_last_block_listed_or_not(
    norm: nn.LayerNorm, layers: torch.Tensor, variant: str
) -> None:
    out = fusion(norm, variant=variant, layers=(2, 4)).eval()(layers)
    base = norm(layers[:, -1])
    if variant == "hirae":
        # Bounded by a share of z_base, of all three groups together.
        assert float((out.latent - base).detach().norm() / base.norm()) < 0.3
    else:
        assert torch.allclose(out.latent, norm(base + 0.2 * (out.fused - base)), atol=1e-6)
    assert torch.equal(fusion(norm, variant="last", layers=(2, 4))(layers).latent, base)


def test_router_and_query_read_the_last_block_listed_or_not(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    hirae = fusion(norm, variant="hirae", layers=(2, 4)).eval()
    assert hirae.router is not None
    read = norm(layers[:, -1])
    logits = hirae(layers).logits
    assert logits is not None and torch.allclose(logits, hirae.router(read), atol=1e-6)
    crossing = fusion(norm, variant="cross_attention", layers=(2, 4)).eval()
    assert crossing.attention is not None
    keys = norm(layers[:, [1, 3]])
    scores = (crossing.attention.query(read)[:, None] * crossing.attention.key(keys)).sum(-1) / 4
    assert torch.allclose(crossing(layers).weights, scores.softmax(1).transpose(1, 2), atol=1e-6)


def test_blocks_that_an_encoder_does_not_have_are_refused(norm: nn.LayerNorm) -> None:
    with pytest.raises(UserError, match=r"^fusion.layers: block 6 asked for, the encoder has 5; use 1 to 5$"):
        fusion(norm, layers=(2, 6))


def test_fusion_does_not_own_the_encoders_norm(layers: torch.Tensor) -> None:
    affine = nn.LayerNorm(WIDTH)
    assert not any("norm.weight" in name for name in fusion(affine).state_dict())

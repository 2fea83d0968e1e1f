"""The fusion module against the paper's formulas, a plain loop of nn.Linear, and its printed sizes."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drorae.config import FusionConfig
from drorae.errors import UserError
from drorae.models.fusion.experts import Experts
from drorae.models.fusion.registry import LayerFusion
from drorae.models.fusion.residual import CAPS, bounded_residuals, depth_groups
from drorae.models.fusion.size import exact_params, fusion_params, paper_params

WIDTH, LAYERS, TOKENS = 24, 5, 7


@pytest.fixture
def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-6, elementwise_affine=False)


@pytest.fixture
def layers() -> torch.Tensor:
    scales = torch.tensor([0.2, 1.0, 3.0, 8.0, 20.0]).view(1, LAYERS, 1, 1)
    return torch.randn(3, LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)) * scales


def fusion(norm: nn.LayerNorm, **options: object) -> LayerFusion:
    torch.manual_seed(0)
    return LayerFusion(FusionConfig(**{"expert_hidden_dim": 16, **options}), LAYERS, norm)


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


def test_mean_has_nothing_to_train(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    module = fusion(norm, variant="mean", incremental=False)
    assert exact_params(module) == 0
    assert torch.allclose(module(layers).latent, norm(layers).mean(1))


def test_mean_dc_adds_the_last_layers_spatial_mean(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    plain = fusion(norm, variant="mean", incremental=False)(layers).latent
    latent = fusion(norm, variant="mean_dc", incremental=False)(layers).latent
    added = norm(layers[:, -1]).mean(1, keepdim=True)
    assert torch.allclose(latent, plain + added, atol=1e-6)


@pytest.mark.parametrize("inner", [16, 128])
def test_cross_attention_is_torchs_with_one_query_per_token(
    norm: nn.LayerNorm, layers: torch.Tensor, inner: int
) -> None:
    module = fusion(norm, variant="cross_attention", incremental=False, expert_hidden_dim=inner)
    attention = module.attention
    assert attention is not None and attention.heads == max(inner // 64, 1)
    out = module(layers)
    for b in range(len(layers)):
        tokens = norm(layers[b]).transpose(0, 1)
        query = attention.query(tokens[:, -1:]).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        key = attention.key(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        value = attention.value(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)[:, 0]
        assert torch.allclose(out.fused[b], norm(attention.out(attended)), atol=1e-5)
    assert torch.allclose(out.weights.sum(-1), torch.ones(3, TOKENS), atol=1e-6)
    assert exact_params(module) == 4 * WIDTH * inner + 3 * inner + WIDTH


def test_hirae_is_its_equations(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    """Eqs. 7-11 of arXiv 2609.37775 written out image by image; small caps bind, so outputs are scaled down."""
    module = fusion(norm, variant="hirae").double().eval()
    layers = layers.double()
    out = module(layers)
    assert module.experts is not None and module.router is not None and module.router.in_features == WIDTH
    assert [depth_groups(n) for n in (1, 2, 24)] == [
        [[], [], [0]],
        [[], [0], [1]],
        [list(range(8)), list(range(8, 16)), list(range(16, 24))],
    ]
    for b in range(len(layers)):
        h = norm(layers[b])
        last = h[-1]
        a = last @ module.router.weight.T + module.router.bias
        w = a / a.square().sum(-1, keepdim=True).clamp(min=1e-6).sqrt()
        outputs = norm(module.experts(h))
        total = torch.zeros_like(last)
        for group, cap in zip(depth_groups(LAYERS), (0.025, 0.075, 0.15), strict=True):
            residual = sum(w[:, k, None] * outputs[k] for k in group)
            assert isinstance(residual, torch.Tensor)
            total += residual * min(1.0, cap * (last.norm() / residual.norm()).item())
        assert torch.allclose(out.latent[b], norm(last + total), atol=1e-10)
        assert total.norm() <= 0.25 * last.norm() + 1e-9


def test_hiraes_caps_hold_for_every_image_with_and_without_dropout(norm: nn.LayerNorm) -> None:
    generator = torch.Generator().manual_seed(3)
    last = norm(torch.randn(4, TOKENS, WIDTH, generator=generator))
    for scale in (1e-4, 1.0, 1e4):
        weighted = scale * torch.randn(6, 4, TOKENS, WIDTH, generator=generator)
        for training in (False, True):
            deltas = bounded_residuals(weighted, last, 1e-6, training)
            for delta, cap in zip(deltas, CAPS, strict=True):
                assert (delta.flatten(1).norm(dim=1) <= cap * last.flatten(1).norm(dim=1) * (1 + 1e-6)).all()
    small = bounded_residuals(1e-4 * torch.ones(3, 1, TOKENS, WIDTH), last[:1], 1e-6, False)
    assert torch.allclose(small[0], torch.full_like(small[0], 1e-4)), "within its budget a residual is left alone"


def test_hirae_drops_residuals_in_training_only(norm: nn.LayerNorm, layers: torch.Tensor) -> None:
    module = fusion(norm, variant="hirae")
    assert not torch.equal(module(layers).latent, module(layers).latent)
    module.eval()
    assert torch.equal(module(layers).latent, module(layers).latent)
    with pytest.raises(UserError, match="incremental"):
        fusion(norm, variant="hirae", incremental=False)


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


def test_sizes_of_the_papers_twenty_configurations() -> None:
    """Tables 8 and 9 print one decimal, unevenly rounded: 113.44 M stands as 113.3."""
    for name in ("capacity.csv", "layers.csv"):
        path = Path(__file__).resolve().parents[4] / "results" / "paper" / name
        with path.open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == {"capacity.csv": 8, "layers.csv": 12}[name]
        for row in rows:
            hidden, n = int(row["expert_hidden_dim"]), int(row["num_layers"])
            size = paper_params(n, 768, hidden)
            assert abs(size / 1e6 - float(row["fusion_params_printed_millions"])) < 0.15
            assert fusion_params(FusionConfig(expert_hidden_dim=hidden, num_layers=n), 12, 768) == size
    assert paper_params(12, 768, 3072) == 56_779_788


def test_affine_expert_norm_adds_its_parameters() -> None:
    plain = FusionConfig(expert_hidden_dim=32)
    affine = dataclasses.replace(plain, expert_norm="layer_affine")
    assert fusion_params(affine, 12, 64) - fusion_params(plain, 12, 64) == 2 * 12 * 32

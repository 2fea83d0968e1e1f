"""Bounded residuals against HiRAE's equations."""

from __future__ import annotations

import pytest
import torch
from small_fusion import LAYERS, TOKENS, WIDTH, fusion
from torch import nn

from drorae.errors import UserError
from drorae.models.fusion.residual import CAPS, bounded_residuals, depth_groups


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

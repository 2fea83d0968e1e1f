"""Attention over depth against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_fusion import TOKENS, WIDTH, fusion
from torch import nn

from drorae.models.fusion.size import exact_params


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

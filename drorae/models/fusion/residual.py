"""HiRAE's bounded residuals: what shallow, middle and deep layers may add to the last one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CAPS = (0.025, 0.075, 0.150)
"""c_g of the shallow, middle and deep group (HiRAE, arXiv 2609.37775, Eq. 4 and Table 9)."""
DROPOUT = (0.50, 0.25, 0.10)
"""p_g of the same groups, elementwise, in training only (Table 9)."""


def depth_groups(num_layers: int) -> list[list[int]]:
    """Layers of the shallow, middle and deep third, contiguous; of fewer than three layers the deepest are deep.

    24 layers: 0-7, 8-15, 16-23, as published.
    """
    groups: list[list[int]] = [[], [], []]
    for layer in range(num_layers):
        groups[2 - (num_layers - 1 - layer) * 3 // num_layers].append(layer)
    return groups


def bounded_residuals(weighted: Tensor, last: Tensor, eps: float, training: bool) -> list[Tensor]:
    """Delta_g of each non-empty group (arXiv 2609.37775, Eq. 9).

    Delta_g = D_g min(1, c_g |H|_F / max(|D_g|_F, eps)), D_g = dropout(sum over the group of w_k h_k), norms over
    all tokens and channels of an image.

    Args:
        weighted: [n, B, N, C], w_k h_k of each layer.
        last: [B, N, C], H, the deepest layer after LN.
        eps: smallest norm divided by.
        training: whether dropout is on.
    """
    deltas = []
    for group, cap, rate in zip(depth_groups(len(weighted)), CAPS, DROPOUT, strict=True):
        if not group:
            continue
        dropped = F.dropout(weighted[group[0] : group[-1] + 1].sum(0), rate, training)
        norms = dropped.flatten(1).norm(dim=1)
        budget = cap * last.flatten(1).norm(dim=1)
        scale = (budget / norms.clamp(min=eps)).clamp(max=1)
        deltas.append(dropped * scale.view(-1, 1, 1))
    return deltas

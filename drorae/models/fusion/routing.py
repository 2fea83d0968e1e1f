"""From router logits to the weights that sum the experts' outputs."""

from __future__ import annotations

import torch
from torch import Tensor


def energy(logits: Tensor, eps: float) -> Tensor:
    """w_k / sqrt(sum_j w_j^2 + eps) over the last axis: unit energy, any sign (arXiv 2605.10780, Eq. 4)."""
    return logits / torch.sqrt(logits.square().sum(-1, keepdim=True) + eps)


def softmax(logits: Tensor, eps: float) -> Tensor:
    """exp(w_k) / sum_j exp(w_j): positive, summing to 1 (the paper's Table 3 alternative; `eps` unused)."""
    return logits.softmax(-1)


def unit(logits: Tensor, eps: float) -> Tensor:
    """w_k / sqrt(max(sum_j w_j^2, eps)) over the last axis: unit length, any sign (HiRAE, arXiv 2609.37775, Eq. 8)."""
    return logits / logits.square().sum(-1, keepdim=True).clamp(min=eps).sqrt()

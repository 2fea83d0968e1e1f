"""The router's weighted sum of normalised expert outputs, without holding these outputs in full precision.

A plain sum_k w_k LN(e_k) goes over [n, T, C] about ten times forward and back, which on small experts takes several
times as long as their matrix products. Here LN is taken apart into the mean of e_k, its variance, and what is left.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 6
"""Experts of a hidden width up to C / 6 are summed by their Gram matrices: beyond it, T h^2 products cost more than
going over the outputs (measured at C = 384: even at h = 64)."""


def is_narrow(hidden_width: int, width: int) -> bool:
    """Whether experts are summed by their Gram matrices."""
    return hidden_width * SMALL <= width


def weighted_outputs(hidden: Tensor, w2: Tensor, b2: Tensor, weights: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Returns sum_k w_k LN(hidden_k W2_k + b2_k), LN without scale and shift (arXiv 2605.10780, Eq. 4).

    Args:
        hidden: [n, T, h], the experts' hidden units.
        w2: [n, h, C].
        b2: [n, 1, C].
        weights: [T, n].
        eps: of LN.
        dtype: of the matrix products; sums are in the type of `weights`.

    Returns:
        [T, C], in the type of `weights`.
    """
    if is_narrow(hidden.shape[-1], w2.shape[-1]):
        return _by_gram(hidden.to(weights.dtype), torch.cat([w2, b2], 1), weights, eps, dtype)
    mixed: Tensor = _ByLayer.apply(hidden.to(dtype), w2.to(dtype), b2.to(dtype), weights, eps)
    return mixed


def _by_gram(hidden: Tensor, matrices: Tensor, weights: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The same with |e_k|^2 = g W2 W2^T g^T for g = (hidden_k, 1): no output is ever there.

    `matrices` [n, h + 1, C] end with the biases.
    """
    # What is the same in all channels is what LN takes away.
    matrices = matrices - matrices.mean(-1, keepdim=True)
    tokens, width = hidden.shape[1], matrices.shape[-1]
    units = F.pad(hidden, (0, 1), value=1.0)
    gram = torch.bmm(matrices, matrices.mT) / width
    variance = (torch.bmm(units, gram) * units).sum(-1)
    scaled = units * (weights.T * torch.rsqrt(variance + eps)).unsqueeze(-1)
    rows = scaled.transpose(0, 1).reshape(tokens, -1)
    return (rows.to(dtype) @ matrices.reshape(-1, width).to(dtype)).to(weights.dtype)


class _ByLayer(torch.autograd.Function):
    """The same for wide experts, a layer at a time, so that what is gone through again lies in the processor's cache.

    With e = hidden W2 + b2 less its mean, r = (mean e^2 + eps)^(-1/2) and g the gradient of the sum less its mean:
    dw_k = r <g, e>, de = w_k r g - w_k r^3 <g, e> e / C.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrices: Tensor, bias: Tensor, weights: Tensor, eps: float) -> Tensor:
        n, tokens, _ = hidden.shape
        width = matrices.shape[-1]
        outputs = hidden.new_empty(n, tokens, width)
        scales = weights.new_empty(n, tokens)
        total = weights.new_zeros(tokens, width)
        for k in range(n):
            torch.addmm(bias[k], hidden[k], matrices[k], out=outputs[k])
            # Widened before it is squared: a norm in bfloat16 has three digits.
            output = _centred(outputs[k].to(weights.dtype))
            scales[k] = torch.rsqrt(torch.linalg.vecdot(output, output) / width + eps)
            total.addcmul_(output, (weights[:, k] * scales[k]).unsqueeze(-1))
        ctx.save_for_backward(hidden, matrices, weights, outputs, scales)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, matrices, weights, outputs, scales = ctx.saved_tensors
        gradient = _centred(grads[0])
        width = matrices.shape[-1]
        to_hidden, to_matrices = torch.empty_like(hidden), torch.empty_like(matrices)
        to_bias, to_weights = matrices.new_empty(len(hidden), 1, width), torch.empty_like(weights)
        for k, scale in enumerate(scales):
            output = _centred(outputs[k].to(weights.dtype))
            along = torch.linalg.vecdot(gradient, output)
            to_weights[:, k] = along * scale
            share = weights[:, k] * scale
            pull = -along * share * scale.square() / width
            to_output = (gradient * share.unsqueeze(-1)).addcmul_(output, pull.unsqueeze(-1))
            to_bias[k, 0] = to_output.sum(0)
            to_output = to_output.to(hidden.dtype)
            torch.mm(to_output, matrices[k].T, out=to_hidden[k])
            torch.mm(hidden[k].T, to_output, out=to_matrices[k])
        return to_hidden, to_matrices, to_bias, to_weights, None


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)

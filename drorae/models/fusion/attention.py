"""Cross-attention over depth: each token of the last layer asks that token's other layers."""

from __future__ import annotations

from torch import Tensor, nn

HEAD_WIDTH = 64
"""Channels per head, as in the ViTs that are fused; a width that is no multiple of it gets one head."""


class DepthAttention(nn.Module):
    """Multi-head attention of one query over n layers, per token.

    arXiv 2605.10780, Table 3, names a "multi-head cross-attention with the last layer as query" and gives no
    formula. This one is the plain choice (arXiv 1706.03762, Sec. 3.2.2): q = W_q LN(z(L)), k_k = W_k LN(z(k)),
    v_k = W_v LN(z(k)), heads of 64 channels, W_o; no embedding of the layer's number.

    Args:
        width: C.
        inner: width of queries, keys and values over all heads; the variant's capacity.

    Raises:
        UserError: `inner` is not a positive number.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = inner // HEAD_WIDTH if inner % HEAD_WIDTH == 0 else 1
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, layers: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Layers [n, T, C], the encoder's last [T, C] -> attended [T, C], weights [T, n] averaged over the heads."""
        query = self.query(last).unflatten(-1, (self.heads, -1))
        key = self.key(layers).unflatten(-1, (self.heads, -1))
        value = self.value(layers).unflatten(-1, (self.heads, -1))
        scores = (query * key).sum(-1) / query.shape[-1] ** 0.5
        weights = scores.softmax(0)
        attended = (weights.unsqueeze(-1) * value).sum(0).flatten(1)
        return self.out(attended), weights.mean(-1).T

"""The fusion module and the table of its named variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drorae.config import FusionConfig
from drorae.errors import UserError
from drorae.fusion import routing
from drorae.fusion.experts import Experts

Routing = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Variant:
    """A row of the table: how the layers are combined into z_fuse. LN is the backbone's final LayerNorm."""

    formula: str
    source: str
    routing: Routing | None = None
    """How router logits become weights; None: no experts and no router, nothing to train."""


VARIANTS: dict[str, Variant] = {
    "last": Variant("z = LN(z(L))", "RAE, arXiv 2510.11690"),
    "mean": Variant("z_fuse = mean_k LN(z(k))", "RAEv2, arXiv 2605.18324"),
    "softmax": Variant(
        "z_fuse = LN(sum_k softmax(w)_k h_k)", "arXiv 2605.10780, Table 3", routing=routing.softmax
    ),
    "energy": Variant(
        "z_fuse = LN(sum_k w_k h_k / sqrt(sum_k w_k^2 + eps))", "arXiv 2605.10780, Eq. 4", routing=routing.energy
    ),
}  # fmt: skip


class FusionOutput(NamedTuple):
    """What the fusion makes of B images with N tokens of width C."""

    latent: Tensor
    """[B, N, C]: what the decoder reads, z_final of Eq. 5 (or z_fuse where `incremental` is off)."""
    fused: Tensor
    """[B, N, C]: z_fuse of Eq. 4."""
    weights: Tensor
    """[B, N, n]: each layer's share, shallowest first."""


class LayerFusion(nn.Module):
    """Fuses the deepest n encoder layers into one latent (arXiv 2605.10780, Sec. 3.2).

    h_k = LN(e_k(LN(z(k)))), w = R [z(1); ...; z(n)], z_fuse as the variant says and, if incremental,
    z_final = LN(z_base + beta (z_fuse - z_base)) (Eq. 5).

    At beta = 0 the paper calls the module the RAE baseline; LN(LN(z)) differs from LN(z) in the last bits, so
    z_base itself is returned there.

    Args:
        config: variant, sizes and options.
        num_layers: blocks of the encoder, L.
        norm: LN, the encoder's final LayerNorm; frozen and shared, not copied into this module's state.

    Raises:
        UserError: more layers asked for than the encoder has, or a non-positive width.
    """

    def __init__(self, config: FusionConfig, num_layers: int, norm: nn.LayerNorm) -> None:
        super().__init__()
        if not 0 <= config.num_layers <= num_layers:
            raise UserError(
                f"fusion.num_layers: {config.num_layers} asked for, the encoder has {num_layers}; "
                f"use 1 to {num_layers}, or 0 for all"
            )
        if config.expert_hidden_dim < 1:
            raise UserError(f"fusion.expert_hidden_dim: {config.expert_hidden_dim} is no width; use 1 or more")
        self.config = config
        self.num_layers = config.num_layers or num_layers
        self.variant = VARIANTS[config.variant]
        self._norm = (norm,)
        width = norm.normalized_shape[0]
        trains = self.variant.routing is not None
        self.experts = Experts(config, self.num_layers, width) if trains else None
        self.router = nn.Linear(self.num_layers * width, self.num_layers) if trains else None

    @property
    def norm(self) -> nn.LayerNorm:
        """LN, in a tuple so that it stays the encoder's and is not saved or trained with the fusion."""
        return self._norm[0]

    def forward(self, layers: Tensor) -> FusionOutput:
        """layers [B, n or more, N, C], raw block outputs, deepest last."""
        layers = layers[:, -self.num_layers :]
        batch, n, tokens, width = layers.shape
        base = self.norm(layers[:, -1])
        if self.config.variant == "last":
            only_last = base.new_zeros(batch, tokens, n)
            only_last[..., -1] = 1
            return FusionOutput(base, base, only_last)
        # Layers lead from here on: [n, B * N, C], one batched product per step.
        raw = layers.transpose(0, 1).reshape(n, batch * tokens, width)
        normalised = self.norm(raw)
        if self.experts is None or self.router is None or self.variant.routing is None:
            fused = normalised.mean(0)
            weights = base.new_full((batch * tokens, n), 1 / n)
        else:
            read = raw if self.config.router_input == "raw" else normalised
            # Linear(n C, n) on the concatenated layers, as a sum over layers of Linear(C, n).
            matrices = self.router.weight.view(n, n, width).permute(1, 2, 0)
            logits = torch.bmm(read, matrices).sum(0) + self.router.bias
            weights = self.variant.routing(logits, self.config.eps)
            outputs = self.norm(self.experts(normalised))
            # Elementwise rather than as a product: a third of the time of the strided bmm einsum would choose.
            fused = self.norm((outputs * weights.T.unsqueeze(-1)).sum(0))
        fused = fused.view(batch, tokens, width)
        weights = weights.view(batch, tokens, n)
        if not self.config.incremental:
            return FusionOutput(fused, fused, weights)
        if self.config.beta == 0:
            return FusionOutput(base, fused, weights)
        return FusionOutput(self.norm(base + self.config.beta * (fused - base)), fused, weights)

"""The fusion module and the table of its named variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from drorae.config import BOUNDED, FusionConfig
from drorae.models.fusion import routing
from drorae.models.fusion.attention import DepthAttention
from drorae.models.fusion.experts import Experts
from drorae.models.fusion.residual import bounded_residuals

Routing = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class FusionVariant:
    """A row of the table: how the layers are combined into z_fuse. LN is the backbone's final LayerNorm."""

    routing: Routing | None = None
    """How router logits become weights; None: no experts and no router."""
    router_reads: Literal["layers", "last"] = "layers"
    """layers: R reads all fused layers, Linear(n C, n); last: the encoder's last alone, Linear(C, n)."""
    attends: bool = False
    """Cross-attention in place of experts and router."""
    adds_spatial_mean: bool = False
    activation: Literal["none", "gelu"] = "none"
    """The experts' activation where the config says `auto`."""


VARIANTS: dict[str, FusionVariant] = {
    # z = LN(z(L)): RAE, arXiv 2510.11690
    "last": FusionVariant(),
    # z_fuse = mean_k LN(z(k)): RAEv2, arXiv 2605.18324
    "mean": FusionVariant(),
    # z_fuse = mean_k LN(z(k)) + mean over tokens of LN(z(L)): RAEv2's form for DINOv3, arXiv 2605.18324
    "mean_dc": FusionVariant(adds_spatial_mean=True),
    # z_fuse = LN(attention(query LN(z(L)), keys and values LN(z(k)))): arXiv 2605.10780, Table 3,
    # which gives no formula (see drorae.models.fusion.attention)
    "cross_attention": FusionVariant(attends=True),
    # z_fuse = LN(sum_k softmax(w)_k h_k): arXiv 2605.10780, Table 3
    "softmax": FusionVariant(routing=routing.softmax),
    # z_fuse = LN(sum_k w_k h_k / sqrt(sum_k w_k^2 + eps)): arXiv 2605.10780, Eq. 4
    "energy": FusionVariant(routing=routing.energy),
    # z = LN(LN(z(L)) + sum_g Delta_g), |Delta_g| <= c_g |LN(z(L))| per image: HiRAE, arXiv 2609.37775, Eqs. 7-11
    "hirae": FusionVariant(routing=routing.unit, router_reads="last", activation="gelu"),
}
"""The published fusions, simplest first."""


class FusionOutput(NamedTuple):
    """What the fusion makes of B images with N tokens of width C."""

    latent: Tensor
    """[B, N, C]: what the decoder reads, z_final of Eq. 5 (or z_fuse where `incremental` is off)."""
    fused: Tensor
    """[B, N, C]: z_fuse of Eq. 4."""
    weights: Tensor
    """[B, N, n]: each layer's share, shallowest first."""
    outputs: Tensor | None = None
    """[B, n, N, C]: h_k, the experts' outputs after LN; None without experts."""
    logits: Tensor | None = None
    """[B, N, n]: w of Eq. 3, before any normalisation; None without a router."""


class LayerFusion(nn.Module):
    """Fuses encoder layers, the deepest n or a list of them, into one latent (arXiv 2605.10780, Sec. 3.2).

    h_k = LN(e_k(LN(z(k)))), w = R [z(1); ...; z(n)], z_fuse as the variant's row in VARIANTS says and, if
    incremental, z_final = LN(z_base + beta (z_fuse - z_base)) (Eq. 5).

    At beta = 0 the paper calls the module the RAE baseline; LN(LN(z)) differs from LN(z) in the last bits, so
    z_base itself is returned there.

    Args:
        config: variant, sizes and options.
        num_layers: blocks of the encoder, L.
        norm: LN, the encoder's final LayerNorm; frozen and shared, not copied into this module's state.

    Attributes:
        blocks: the fused blocks, ascending and counted from 1.
        num_layers: n, how many they are.
        reads: how many of the deepest layers they lie among, the last of all with them.

    Raises:
        UserError: layers asked for that the encoder does not have, a non-positive width, or a variant without the
            form asked for.
    """

    def __init__(self, config: FusionConfig, num_layers: int, norm: nn.LayerNorm) -> None:
        super().__init__()
        config.check()
        config.check_depth(num_layers)
        variant = VARIANTS[config.variant]
        self.bounded = config.variant in BOUNDED
        """z_fuse is already a bounded correction of z_base, and so the latent."""
        self.config = config
        self.blocks = config.blocks(num_layers)
        self.num_layers = len(self.blocks)
        self.reads = num_layers + 1 - self.blocks[0]
        self._from_last = [block - num_layers - 1 for block in self.blocks]
        self.variant = variant
        self._norm = (norm,)
        width = norm.normalized_shape[0]
        self.experts: Experts | None = None
        self.router: nn.Linear | None = None
        self.attention: DepthAttention | None = None
        if variant.routing is not None:
            if config.activation == "auto":
                config = replace(config, activation=variant.activation)
            self.experts = Experts(config, self.num_layers, width)
            read = self.num_layers * width if variant.router_reads == "layers" else width
            self.router = nn.Linear(read, self.num_layers)
        elif variant.attends:
            self.attention = DepthAttention(width, config.expert_hidden_dim)

    @property
    def norm(self) -> nn.LayerNorm:
        """LN, in a tuple so that it stays the encoder's and is not saved or trained with the fusion."""
        return self._norm[0]

    def picked(self, layers: Tensor) -> Tensor:
        """Layers [B, `reads` or more, N, C], deepest last -> the fused ones, [n, B, N, C]."""
        if self.reads == self.num_layers:
            return layers[:, -self.reads :].transpose(0, 1)
        return torch.stack([layers[:, at] for at in self._from_last])

    def forward(self, layers: Tensor) -> FusionOutput:
        """Layers [B, `reads` or more, N, C], raw block outputs, deepest last."""
        last, n = layers[:, -1], self.num_layers
        batch, tokens, width = last.shape
        base = self.norm(last)
        if self.config.variant == "last":
            only_last = base.new_zeros(batch, tokens, n)
            only_last[..., -1] = 1
            return FusionOutput(base, base, only_last)
        # Layers lead from here on: [n, B * N, C], one batched product per step.
        raw = self.picked(layers).reshape(n, batch * tokens, width)
        normalised = self.norm(raw)
        outputs, logits = None, None
        if self.experts is not None and self.router is not None and self.variant.routing is not None:
            unnormalised = self.config.router_input == "raw"
            if self.variant.router_reads == "last":
                logits = self.router((last if unnormalised else base).flatten(0, 1))
            else:
                logits = self._logits(raw if unnormalised else normalised, self.router)
            weights = self.variant.routing(logits, self.config.eps)
            outputs = self.norm(self.experts(normalised))
            fused = self._aggregate(outputs, weights, base)
        elif self.attention is not None:
            attended, weights = self.attention(normalised, base.flatten(0, 1))
            fused = self.norm(attended)
        else:
            fused, weights = normalised.mean(0), base.new_full((batch * tokens, n), 1 / n)
        fused = fused.view(batch, tokens, width)
        if self.variant.adds_spatial_mean:
            fused = fused + base.mean(1, keepdim=True)
        if self.bounded or not self.config.incremental:
            latent = fused
        elif self.config.beta == 0:
            latent = base
        else:
            latent = self.norm(base + self.config.beta * (fused - base))
        return FusionOutput(
            latent,
            fused,
            weights.view(batch, tokens, n),
            None if outputs is None else outputs.view(n, batch, tokens, width).transpose(0, 1),
            None if logits is None else logits.view(batch, tokens, n),
        )

    def _logits(self, read: Tensor, router: nn.Linear) -> Tensor:
        """All fused layers [n, T, C] -> the router's logits [T, n]."""
        n, _, width = read.shape
        # Linear(n C, n) on the concatenated layers, as a sum over layers of Linear(C, n).
        matrices = router.weight.view(n, n, width).permute(1, 2, 0)
        return torch.bmm(read, matrices).sum(0) + router.bias

    def _aggregate(self, outputs: Tensor, weights: Tensor, base: Tensor) -> Tensor:
        """h_k [n, T, C], weights [T, n], base [B, N, C] -> z_fuse [T, C]."""
        # Elementwise rather than as a product: a third of the time of the strided bmm einsum would choose.
        weighted = outputs * weights.T.unsqueeze(-1)
        if not self.bounded:
            total = weighted.sum(0)
        else:
            deltas = bounded_residuals(weighted.view(-1, *base.shape), base, self.config.eps, self.training)
            total = (base + torch.stack(deltas).sum(0)).flatten(0, 1)
        fused: Tensor = self.norm(total)
        return fused

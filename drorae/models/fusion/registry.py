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
from drorae.models.fusion.mixture import is_narrow, weighted_outputs
from drorae.models.fusion.residual import bounded_residuals
from drorae.runtime.products import at_least_float32

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
        self.reads = config.reads(num_layers)
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

    def latent(self, layers: Tensor) -> Tensor:
        """Layers [B, `reads` or more, N, C], raw -> the latent alone [B, N, C], as `forward` has it up to rounding.

        Several times faster with experts, whose outputs it does not hold. Under autocast matrix products alone are in
        the short type. Layers may be in any floating type.
        """
        routing = self.variant.routing
        if routing is None or self.experts is None or self.router is None or self.bounded:
            whole: FusionOutput = self(at_least_float32(layers))
            return whole.latent
        device, full = layers.device.type, torch.promote_types(layers.dtype, torch.float32)
        short = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else full
        with torch.autocast(device, enabled=False):
            base: Tensor = self.norm(layers[:, -1].to(full))
            if self.config.incremental and self.config.beta == 0:
                return base
            raw = self.picked(layers)
            raw = raw.reshape(self.num_layers, -1, raw.shape[-1])
            # A kernel that reads and writes the short type still adds in float32.
            direct = raw.dtype == short and not self.norm.elementwise_affine
            read = self.norm(raw) if direct else self.norm(raw.to(full)).to(short)
            routed = raw.to(short) if self.config.router_input == "raw" else read
            hidden, logits = self._first(read, routed, self.experts, self.router, full)
            weights = routing(logits, self.config.eps)
            total = weighted_outputs(hidden, self.experts.w2, self.experts.b2, weights, self.norm.eps, short)
            if self.norm.elementwise_affine:
                total = total * self.norm.weight + weights.sum(-1, keepdim=True) * self.norm.bias
            fused: Tensor = self.norm(total).view_as(base)
            latent: Tensor = self.norm(base + self.config.beta * (fused - base)) if self.config.incremental else fused
            return latent

    def _first(
        self, read: Tensor, routed: Tensor, experts: Experts, router: nn.Linear, full: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """What experts and router read [n, T, C] -> hidden units [n, T, h], router logits [T, n], these in `full`."""
        routes, hidden_width = _routes(router, len(read)), experts.w1.shape[-1]
        narrow = is_narrow(hidden_width, read.shape[-1])
        if narrow and routed is read:
            # One product: what is read is read once. Joining wide matrices would cost more.
            both = torch.bmm(read, torch.cat([experts.w1, routes], -1).to(read.dtype))
            units, logits = torch.split(both, [hidden_width, len(read)], -1)
        else:
            units, logits = torch.bmm(read, experts.w1.to(read.dtype)), torch.bmm(routed, routes.to(read.dtype))
        # Narrow units cost nothing in the full type; wide ones are most of what is gone through.
        units = units.to(full) if narrow else units
        return experts.hidden(units + experts.b1.to(units.dtype)), logits.to(full).sum(0) + router.bias

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
        return torch.bmm(read, _routes(router, len(read))).sum(0) + router.bias

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


def _routes(router: nn.Linear, n: int) -> Tensor:
    """Linear(n C, n) on concatenated layers as [n, C, n]: a sum over layers of Linear(C, n)."""
    return router.weight.view(n, n, -1).permute(1, 2, 0)

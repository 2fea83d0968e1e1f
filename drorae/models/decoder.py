"""The plain ViT decoder: latent tokens to pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drorae.config import DecoderConfig, check_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS = 1e-12
"""Of all LayerNorms: ViT-MAE's, which RAE's decoder configurations keep."""

SHORT = 64
"""Tokens, below which attention is written out. On so few the fused kernel has nothing to save, and its backward pass
in bfloat16 takes a CPU five times as long as three small products."""


def sincos_positions(grid: int, width: int, spacing: float = 1.0) -> Tensor:
    """Fixed 2-D sine-cosine position table [grid * grid, width] (MAE, arXiv 2111.06377, base 10000).

    Half of the width encodes the column, half the row; neighbours are `spacing` apart.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * (spacing * frequencies)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = axis[None, :, :].expand(grid, grid, -1)
    rows = axis[:, None, :].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(grid * grid, width).float()


class Decoder(nn.Module):
    """A ViT that maps N = grid^2 latent tokens to an image of `size` pixels, as RAE's (arXiv 2510.11690).

    Linear embedding, a trainable class token, fixed sine-cosine positions, pre-norm blocks (biased queries, keys
    and values, exact GELU), a final LayerNorm and one linear layer to the pixels of a patch, which are
    de-normalised as `config.output` says. `drorae.models.rae_decoder` loads RAE's own weights into it.

    Positions and output statistics are part of the state: released decoders bring theirs, which are then kept with
    the weights.

    Args:
        config: width, depth, heads, MLP width, initialisation, output.
        latent_width: C.
        grid: tokens per side.
        size: image side in pixels; a multiple of `grid`.
        normalisation: mean and deviation of the encoder's own preprocessing, three each, for `config.output=encoder`;
            default: ImageNet's.

    Raises:
        UserError: sizes that do not divide.
    """

    positions: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: DecoderConfig,
        latent_width: int,
        grid: int,
        size: int,
        normalisation: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_grid(size, grid)
        config.check()
        self.grid = grid
        self.patch = size // grid
        self.checkpointing = False
        """Compute the blocks' activations again in the backward pass instead of keeping them."""
        self.output = config.output
        self.heads = config.heads
        self.mlp_dim = config.mlp_dim
        self.embed = nn.Linear(latent_width, config.width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        positions = torch.cat([torch.zeros(1, config.width), sincos_positions(grid, config.width)])
        self.register_buffer("positions", positions[None])
        norm: Any = partial(nn.LayerNorm, eps=EPS)
        self.blocks = nn.Sequential(
            *(
                Block(config.width, config.heads, config.mlp_dim / config.width, qkv_bias=True, norm_layer=norm)
                for _ in range(config.depth)
            )
        )
        if grid**2 < SHORT:
            block: Any
            for block in self.blocks:
                block.attn.fused_attn = False
        self.norm = norm(config.width)
        self.head = nn.Linear(config.width, self.patch**2 * 3)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if config.output == "none":
            mean, std = torch.zeros(3), torch.ones(3)
        elif config.output == "encoder" and normalisation is not None:
            mean, std = normalisation
        # Copies, as the encoder's own may lie on another device.
        self.register_buffer("mean", mean.detach().clone().view(1, 3, 1, 1))
        self.register_buffer("std", std.detach().clone().view(1, 3, 1, 1))
        if config.init == "xavier":
            self.apply(_initialise)
            nn.init.normal_(self.class_token, std=0.02)

    def forward(self, latent: Tensor, head_offset: Tensor | None = None) -> Tensor:
        """Latent [B, N, C] -> image float [B, 3, S, S]; nominally in [0, 1], not clamped.

        `head_offset` is added to the weight of the last linear layer: zeros with respect to which a loss's gradient
        is that weight's own, frozen or not (`drorae.losses.adversarial`).
        """
        batch = latent.shape[0]
        tokens = torch.cat([self.class_token.expand(batch, -1, -1), self.embed(latent)], dim=1) + self.positions
        if self.checkpointing and torch.is_grad_enabled():
            for block in self.blocks:
                tokens = checkpoint(block, tokens, use_reentrant=False)
        else:
            tokens = self.blocks(tokens)
        weight = self.head.weight if head_offset is None else self.head.weight + head_offset
        patches = F.linear(self.norm(tokens)[:, 1:], weight, self.head.bias).float()
        side = self.grid * self.patch
        image = patches.view(batch, self.grid, self.grid, self.patch, self.patch, 3)
        image = image.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side, side)
        return image * self.std + self.mean


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, as MAE's decoder."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

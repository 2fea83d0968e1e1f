"""DiT^DH, a diffusion transformer with a wide, shallow head (RAE, arXiv 2510.11690; after DDT, 2504.05741).

A transformer narrower than the latent's channels cannot represent their velocity (RAE, Sec. 4). Instead of widening
all of it, a deep and narrow encoder makes one vector of every position, and a wide head of few blocks reads x_t again
under it. What the paper leaves open is as in RAE's published code (its src/stage2/models/DDT.py and model_utils.py):

- The encoder's blocks are modulated by silu(t + y), the head's and the last layer position by position by
  W silu(t + s); in front of each modulation's own linear layer there is a second SiLU.
- Positions are added to the encoder's tokens only; rows and columns turn queries and keys in both parts.
- RMSNorm has a weight, and the modulation comes on top.
- All modulations and the last layer start at zero, so that every block starts as the identity and the output at 0.

Texts are not RAE's. Their tokens stand before the image's in the encoder, without a place that would turn them, and are
left out before the head; their mean is the y that classes have a vector for.

Internal guidance (RAEv2, arXiv 2605.18324, and its code): after `early_depth` blocks a second last layer of the
encoder's width reads silu(t + s), modulated by the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.mlp import SwiGLU
from timm.layers.norm import RmsNorm
from timm.layers.pos_embed_sincos import apply_rot_embed_cat, build_rotary_pos_embed
from torch import Tensor, nn

from drorae.config import GeneratorConfig
from drorae.config.generator import ROTATED
from drorae.errors import UserError
from drorae.models.decoder import sincos_positions

EPS = 1e-6
"""Of all RMSNorms, RAE's."""
FREQUENCIES = 256
"""Sines, and as many cosines, that a time is embedded in, RAE's; their frequencies are normal, of deviation 1."""
SPREAD = 0.02
"""Deviation of the first weights of the time's layers and of the classes', RAE's and DiT's (arXiv 2212.09748); and of a
text's."""


class Prediction(NamedTuple):
    """What a generator makes of x_t: velocities or clean latents, as `GeneratorConfig.prediction` says."""

    final: Tensor
    """[B, C, S, S]."""
    early: Tensor | None
    """[B, C, S, S], of the second output; None where there is none."""


class Condition(nn.Module, ABC):
    """What the generator is told of an image, as one vector y and, where it has them, tokens beside the image's."""

    @abstractmethod
    def forward(self, given: Tensor) -> Tensor:
        """What is given, [B, ...], -> y [B, d]."""

    def context(self, given: Tensor) -> Tensor | None:
        """Returns the tokens [B, L, d] that the encoder reads before those of the image; None: there are none."""
        return None

    @abstractmethod
    def null(self, count: int) -> Tensor:
        """Returns what is given where nothing is said, [count, ...]."""


class ClassCondition(Condition):
    """A vector for every class, and one more for no class: the last, as in DiT. Labels are int64 [B]."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.embedding.weight, std=SPREAD)

    def forward(self, given: Tensor) -> Tensor:
        """Labels [B] from 0 to the number of classes, which is none of them, -> [B, d]."""
        found: Tensor = self.embedding(given)
        return found

    def null(self, count: int) -> Tensor:
        """Returns the label of no class, [count]."""
        weight = self.embedding.weight
        return torch.full((count,), len(weight) - 1, device=weight.device)


class TextCondition(Condition):
    """A text's tokens, projected: the encoder reads them all, and their mean is y.

    What is given are a text encoder's states [B, L, D], with rows of zeros where there is no token. A learned token
    stands in their place, so that all texts have as many; y is zero where there is none at all.
    """

    def __init__(self, tokens: int, channels: int, width: int) -> None:
        super().__init__()
        self.tokens, self.channels = tokens, channels
        self.project = nn.Linear(channels, width)
        nn.init.normal_(self.project.weight, std=SPREAD)
        nn.init.zeros_(self.project.bias)
        self.nothing = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.nothing, std=SPREAD)

    def forward(self, given: Tensor) -> Tensor:
        """States [B, L, D] -> [B, d]."""
        said = self._said(given)
        projected: Tensor = self.project(given)
        return (projected * said).sum(1) / said.sum(1).clamp_min(1)

    def context(self, given: Tensor) -> Tensor:
        """States [B, L, D] -> tokens [B, L, d]."""
        return torch.where(self._said(given), self.project(given), self.nothing)

    def null(self, count: int) -> Tensor:
        """Returns the states of no text, [count, L, D]."""
        return torch.zeros(count, self.tokens, self.channels, device=self.nothing.device, dtype=self.nothing.dtype)

    @staticmethod
    def _said(given: Tensor) -> Tensor:
        """Where there is a token, [B, L, 1]."""
        return (given != 0).any(-1, keepdim=True)


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of t (Tancik et al., arXiv 2006.10739), then two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # Drawn once, not learned, and part of the state.
        self.register_buffer("frequencies", torch.randn(FREQUENCIES))
        first, second = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        for linear in (first, second):
            nn.init.normal_(linear.weight, std=SPREAD)
        self.layers = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor) -> Tensor:
        """Times [B] -> [B, d]."""
        angles = 2 * torch.pi * t[:, None] * self.frequencies
        found: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return found


class Attention(nn.Module):
    """Attention with biased queries, keys and values, the first two turned by their positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Tokens [B, N, W], sines and cosines [N, 2 W / heads], -> [B, N, W]."""
        batch, count, width = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (apply_rot_embed_cat(part, turns).to(v.dtype) for part in (q, k))
        found: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width))
        return found


def _modulation(width: int, parts: int) -> nn.Sequential:
    """SiLU and a linear layer that starts at zero: `parts` shifts, scales and gates from a condition."""
    linear = nn.Linear(width, parts * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


class _Norm(RmsNorm):
    """RMSNorm whose weight takes the type of what it weighs: of another, torch would go through a slower kernel."""

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        return F.rms_norm(x, self.normalized_shape, weight.to(x.dtype), self.eps)


class Block(nn.Module):
    """RMSNorm, attention and SwiGLU (2/3 of 4 W wide) with adaLN-zero: the identity at first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _Norm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.norm2 = _Norm(width, eps=EPS)
        self.mlp = SwiGLU(width, 8 * width // 3)
        self.modulation = _modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor, turns: Tensor) -> Tensor:
        """Tokens x [B, N, W], condition [B, 1, W] or, token by token, [B, N, W] -> [B, N, W]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, turns)
        change: Tensor = gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + change


class LastLayer(nn.Module):
    """A modulated RMSNorm, without a gate, and a linear layer that starts at zero."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = _Norm(width, eps=EPS)
        self.modulation = _modulation(width, 2)
        self.linear = nn.Linear(width, channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens x [B, N, W] and a condition for each, [B, N, W], -> [B, N, C]."""
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        found: Tensor = self.linear(self.norm(x) * (1 + scale) + shift)
        return found


def _turns(grid: int, head_width: int) -> Tensor:
    """Sines and cosines [N, 2 head_width] that turn a head by the token's row, in its first half, and its column."""
    count = head_width // ROTATED
    bands = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    sines, cosines = build_rotary_pos_embed([grid, grid], bands, in_pixels=False, dtype=torch.float64)
    return torch.cat([sines, cosines], dim=-1).float()


def _unturned(count: int, turns: Tensor) -> Tensor:
    """The same for so many tokens without a place, [count, 2 head_width]: an angle of 0."""
    sines, cosines = turns.new_zeros(count, turns.shape[1] // 2), turns.new_ones(count, turns.shape[1] // 2)
    return torch.cat([sines, cosines], dim=-1)


def _condition(config: GeneratorConfig, classes: int, text_width: int) -> Condition:
    """What a generator's config says that it is told."""
    if config.condition == "text":
        if text_width < 1:
            raise UserError("generator.condition=text needs a text encoder; give generator.text_encoder")
        return TextCondition(config.text_tokens, text_width, config.width)
    if config.condition == "class" and classes < 1:
        raise UserError(
            "generator.condition=class needs labels, and the images have none; use generator.condition=none"
        )
    return ClassCondition(classes if config.condition == "class" else 0, config.width)


def _embedding(channels: int, width: int) -> nn.Linear:
    """A layer that reads one position of the latent: a 1 x 1 patch."""
    linear = nn.Linear(channels, width)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class DiTDH(nn.Module):
    """The generator: x_t, t and a condition to what is predicted of it.

    Its first weights come from torch's own generator; fork and seed it (`torch.random.fork_rng`).

    Args:
        config: sizes, condition, whether there is a second output.
        channels: C of the latent.
        grid: S, positions per side.
        classes: how many there are; counts only where they are the condition.
        text_width: D of a text encoder's states; counts only where texts are the condition.

    Raises:
        UserError: sizes that do not go together, or classes or texts asked for where there are none.
    """

    positions: Tensor
    turns: Tensor
    head_turns: Tensor

    def __init__(
        self, config: GeneratorConfig, channels: int, grid: int, classes: int = 0, text_width: int = 0
    ) -> None:
        super().__init__()
        config.check()
        width, head_width = config.width, config.head_width
        self.grid = grid
        self.early_depth = config.early_depth
        # The tables follow from the sizes, and so are no part of the state.
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)
        self.register_buffer("turns", _turns(grid, width // config.heads), persistent=False)
        self.register_buffer("head_turns", _turns(grid, head_width // config.head_heads), persistent=False)
        self.time = TimeEmbedding(width)
        self.condition = _condition(config, classes, text_width)
        self.embed = _embedding(channels, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.early = LastLayer(width, channels) if config.early_depth else None
        self.widen = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.head_embed = _embedding(channels, head_width)
        self.head = nn.ModuleList(Block(head_width, config.head_heads) for _ in range(config.head_depth))
        self.last = LastLayer(head_width, channels)

    def forward(self, noisy: Tensor, t: Tensor, given: Tensor | None = None) -> Prediction:
        """Noisy latents [B, C, S, S], times [B] in [0, 1], what is given [B, ...] (None: nothing) -> the prediction."""
        tokens = noisy.flatten(2).transpose(1, 2)
        time = self.time(t)
        given = self.condition.null(len(t)) if given is None else given
        condition = F.silu(time + self.condition(given))[:, None]
        s, early, turns = self.embed(tokens) + self.positions, None, self.turns
        context = self.condition.context(given)
        if context is not None:
            s = torch.cat([context, s], dim=1)
            turns = torch.cat([_unturned(context.shape[1], turns), turns])
        first = 0 if context is None else context.shape[1]
        for depth, block in enumerate(self.blocks, start=1):
            s = block(s, condition, turns)
            if self.early is not None and depth == self.early_depth:
                own = F.silu(time[:, None] + s[:, first:])
                early = self._as_map(self.early(own, own))
        s = self.widen(F.silu(time[:, None] + s[:, first:]))
        x = self.head_embed(tokens)
        for block in self.head:
            x = block(x, s, self.head_turns)
        return Prediction(self._as_map(self.last(x, s)), early)

    def _as_map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)

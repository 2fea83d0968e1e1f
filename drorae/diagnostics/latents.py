"""Mean and deviation of a tokenizer's latents: what a diffusion model's latents are normalised with."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import ENCODE_BATCH, Features, Note
from drorae.errors import UserError
from drorae.models.tokenizer import Tokenizer

EPS = 1e-5
"""Added to the variance, as RAE does where it normalises latents (its src/stage1/rae.py)."""


class LatentStatistics(NamedTuple):
    """Statistics of every latent element over images, as RAE's: not pooled over positions."""

    mean: Tensor
    """[C, h, w]."""
    std: Tensor
    """[C, h, w]: sqrt(variance + EPS), the variance that of the population."""
    images: int
    """How many images (views) they were taken over."""


def as_map(tokens: Tensor) -> Tensor:
    """Tokens [B, N, C], row by row, -> [B, C, h, w] with h = w = sqrt(N)."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def as_tokens(latent: Tensor) -> Tensor:
    """The inverse of `as_map`."""
    return latent.flatten(2).transpose(1, 2)


@torch.no_grad()
def latent_statistics(
    tokenizer: Tokenizer,
    features: Features,
    images: int = 0,
    batch_size: int = ENCODE_BATCH,
    note: Note = lambda what, done, total: None,
) -> LatentStatistics:
    """Statistics of the fused latents of a split, the training images as a rule, in one pass.

    A fusion moves the latent, so each has its own. Batches are merged in float64 (Chan, Golub & LeVeque 1983).

    Args:
        tokenizer: whose fusion; its parameters say on which device.
        features: the encoder's features of the images.
        images: at most so many items, evenly spaced over the split; 0: all.
        batch_size: items fused at once.
        note: called with progress.

    Raises:
        UserError: no images, or a negative number of them asked for.
    """
    total = len(features)
    if images < 0 or total == 0:
        raise UserError(f"latent statistics: {images} of {total} images asked for; expected 0 (all) or more, of some")
    chosen = np.arange(total) if images in (0, total) else np.linspace(0, total - 1, min(images, total)).astype(int)
    device = tokenizer.decoder.embed.weight.device
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(chosen), batch_size):
        layers = features.batch(chosen[start : start + batch_size], 0, tokenizer.fusion.num_layers).layers
        latent = as_map(tokenizer.latent(layers.to(device).float())).double().cpu()
        batch = len(latent)
        batch_mean = latent.mean(0)
        shift = batch_mean - mean
        squares = squares + (latent - batch_mean).square().sum(0) + shift.square() * (count * batch / (count + batch))
        mean = mean + shift * (batch / (count + batch))
        count += batch
        note("latent statistics", count, len(chosen))
    return LatentStatistics(mean.float(), (squares / count + EPS).sqrt().float(), count)

"""A tokenizer's latents: batch by batch, and their mean and deviation, which a diffusion model normalises them with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import ENCODE_BATCH, Features
from drorae.data.pixels import as_images
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
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def as_tokens(latent: Tensor) -> Tensor:
    """The inverse of `as_map`."""
    return latent.flatten(2).transpose(1, 2)


@torch.no_grad()
def read_batch(tokenizer: Tokenizer, features: Features, items: np.ndarray, num_layers: int) -> tuple[Tensor, Tensor]:
    """Reads items as a tokenizer sees them.

    Args:
        tokenizer: whose encoder; its parameters say on which device.
        features: the frozen encoder's features of the images; with an encoder of its own, a tokenizer reads their
            pixels.
        items: which of them, [B].
        num_layers: the deepest so many blocks.

    Returns:
        Layers float32 [B, n or more, N, C] on the device, and crops uint8 [B, 3, H, W] on the CPU.
    """
    device = tokenizer.decoder.embed.weight.device
    batch = features.batch(items, 0, 0 if tokenizer.encodes else num_layers)
    if tokenizer.encodes:
        return tokenizer.encoder(as_images(batch.pixels.to(device))).layers, batch.pixels
    return batch.layers.to(device).float(), batch.pixels


@torch.no_grad()
def latent_batches(
    tokenizer: Tokenizer, features: Features, items: np.ndarray, size: int, fused: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields latents float [B, N, C], as the decoder reads them, and the crops uint8 [B, 3, H, W] that they are of.

    Args:
        tokenizer: whose fusion; its parameters say on which device the latents are. The crops are on the CPU.
        features: the encoder's features of the images.
        items: which of them, [M].
        size: items at once.
        fused: whether the latents are the fusion's; otherwise z_base. Default: the fusion's.
    """
    depth = tokenizer.fusion.reads if fused else 1
    for part in np.split(items, range(size, len(items), size)):
        layers, pixels = read_batch(tokenizer, features, part, depth)
        yield tokenizer.latent(layers, fused), pixels


def latent_statistics(
    tokenizer: Tokenizer, features: Features, images: int = 0, batch_size: int = ENCODE_BATCH
) -> LatentStatistics:
    """Takes the statistics of the fused latents of a split, the training images as a rule, in one pass.

    A fusion moves the latent, so each has its own. Batches are merged in float64 (Chan, Golub & LeVeque 1983).

    Args:
        tokenizer: whose fusion; its parameters say on which device.
        features: the encoder's features of the images.
        images: at most so many items, evenly spaced over the split; 0, the default: all.
        batch_size: items fused at once.

    Raises:
        UserError: no images, or a negative number of them asked for.
    """
    total = len(features)
    if images < 0 or total == 0:
        raise UserError(f"latent statistics: {images} of {total} images asked for; expected 0 (all) or more, of some")
    chosen = np.linspace(0, total - 1, min(images or total, total)).astype(int)
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for tokens, _ in latent_batches(tokenizer, features, chosen, batch_size):
        latent = as_map(tokens).double().cpu()
        batch, batch_mean = len(latent), latent.mean(0)
        shift = batch_mean - mean
        squares = squares + (latent - batch_mean).square().sum(0) + shift.square() * (count * batch / (count + batch))
        mean = mean + shift * (batch / (count + batch))
        count += batch
    return LatentStatistics(mean.float(), (squares / count + EPS).sqrt().float(), count)

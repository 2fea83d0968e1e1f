"""A tokenizer's latents: batch by batch, and their mean and deviation, which a diffusion model normalises them with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import ENCODE_BATCH, Features
from drorae.data.pixels import as_images, to_uint8
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

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> (z - mean) / std, element by element, what a generator learns."""
        return (latents - self.mean.to(latents)) / self.std.to(latents)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`, but for rounding."""
        return latents * self.std.to(latents) + self.mean.to(latents)


class BatchMoments(NamedTuple):
    """What a batch of latents adds to their statistics, in float64 on the CPU."""

    images: int
    mean: Tensor
    """[C, h, w]."""
    squares: Tensor
    """[C, h, w]: summed squares of the differences from the mean."""

    @classmethod
    def of(cls, latents: Tensor) -> BatchMoments:
        """Takes those of latents [B, C, h, w]."""
        latents = latents.double().cpu()
        mean = latents.mean(0)
        return cls(len(latents), mean, (latents - mean).square().sum(0))


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
        Layers float32 [B, n or more, N, C] on the device, and crops uint8 [B, 3, H, W] where the features left them.
    """
    device = tokenizer.decoder.embed.weight.device
    batch = features.batch(items, 0, 0 if tokenizer.encodes else num_layers)
    if tokenizer.encodes:
        return tokenizer.encoder(as_images(batch.pixels.to(device)), num_layers).layers, batch.pixels
    return batch.layers.to(device).float(), batch.pixels


@torch.no_grad()
def latent_batches(
    tokenizer: Tokenizer, features: Features, items: np.ndarray, size: int, fused: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields latents float [B, N, C], as the decoder reads them, and the crops uint8 [B, 3, H, W] that they are of.

    Args:
        tokenizer: whose fusion; its parameters say on which device the latents are. The crops are where the
            features left them.
        features: the encoder's features of the images.
        items: which of them, [M].
        size: items at once.
        fused: whether the latents are the fusion's; otherwise z_base. Default: the fusion's.
    """
    depth = tokenizer.fusion.reads if fused else 1
    for start in range(0, len(items), size):
        layers, pixels = read_batch(tokenizer, features, items[start : start + size], depth)
        yield tokenizer.latent(layers, fused), pixels


def painted_batches(
    tokenizer: Tokenizer,
    features: Features,
    items: np.ndarray,
    size: int,
    fused: bool = True,
    quantise: Literal["round", "truncate"] = "round",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields reconstructions and originals, both uint8 [B, 3, H, W] on the tokenizer's device; as `latent_batches`.

    `quantise` says how reconstructions become 8-bit images (`evaluation.quantise`).
    """
    for latent, pixels in latent_batches(tokenizer, features, items, size, fused):
        yield to_uint8(tokenizer.decode(latent), quantise), pixels.to(latent.device)


def latent_statistics(
    tokenizer: Tokenizer, features: Features, images: int = 0, batch_size: int = ENCODE_BATCH
) -> LatentStatistics:
    """Takes the statistics of the fused latents of a split, the training images as a rule, in one pass.

    A fusion moves the latent, so each has its own.

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
    return element_statistics(as_map(tokens) for tokens, _ in latent_batches(tokenizer, features, chosen, batch_size))


def element_statistics(batches: Iterable[Tensor]) -> LatentStatistics:
    """Takes the statistics of latents [B, C, h, w] that come batch by batch, in one pass and in float64.

    RAE's are over ADM's centre crop of every training image and its flip (`drorae.data.mirrored`).

    Raises:
        UserError: no latents.
    """
    return merged_statistics(map(BatchMoments.of, batches))


def merged_statistics(moments: Iterable[BatchMoments]) -> LatentStatistics:
    """Returns the statistics of batches together, in the order in which they come.

    They are merged as Chan, Golub & LeVeque (1983) do.

    Raises:
        UserError: no latents.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch, batch_mean, batch_squares in moments:
        shift = batch_mean - mean
        squares = squares + batch_squares + shift.square() * (count * batch / (count + batch))
        mean = mean + shift * (batch / (count + batch))
        count += batch
    if not count:
        raise UserError("latent statistics: there are no latents; name images to take them over")
    return LatentStatistics(mean.float(), (squares / count + EPS).sqrt().float(), count)

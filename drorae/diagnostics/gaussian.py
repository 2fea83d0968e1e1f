"""A Gaussian of every position of a tokenizer's latents: what a generator that has learned anything must beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

FULL_FROM = 2
"""Latents per channel, from which on the covariance over channels is taken in full: with fewer it is mostly noise, and
with as many as channels or fewer it is singular."""
JITTER = 1e-6
"""Of a position's mean variance, added to a covariance's diagonal before it is factored: channels may be constant."""


@dataclass(frozen=True)
class PositionGaussian:
    """Latents whose positions know nothing of each other, each with its own mean and covariance over channels."""

    mean: Tensor
    """float32 [N, C]."""
    root: Tensor
    """float32 [N, C, C], lower triangular, a covariance's factor; or [N, C], deviations."""
    images: int
    """How many latents it was fitted to."""

    @property
    def form(self) -> Literal["full", "diagonal"]:
        """Whether channels go together as they do in the latents, or each is alone."""
        return "full" if self.root.ndim == 3 else "diagonal"

    def record(self) -> dict[str, Any]:
        """What it is, for the record of what was drawn from it."""
        return {"gaussian_covariance": self.form, "gaussian_images": self.images}

    def to(self, device: torch.device) -> PositionGaussian:
        """Returns the same on a device."""
        return PositionGaussian(self.mean.to(device), self.root.to(device), self.images)

    def draw(self, items: Iterable[int], seed: int) -> Tensor:
        """Draws latents float32 [B, N, C], as the decoder reads them, on the device of `mean`.

        Each item has random numbers of its own, so that any subset is drawn again, by any number of processes.

        Args:
            items: numbers of the latents.
            seed: another one draws others.
        """
        noise = np.stack(
            [np.random.default_rng([seed, item]).standard_normal(self.mean.shape, np.float32) for item in items]
        )
        drawn = torch.from_numpy(noise).to(self.mean.device)
        scaled = drawn * self.root if self.root.ndim == 2 else torch.einsum("ncd,bnd->bnc", self.root, drawn)
        return self.mean + scaled


@torch.no_grad()
def fit_gaussian(batches: Iterable[Tensor], images: int) -> PositionGaussian:
    """Fits a Gaussian per position to training latents, in one pass, in float64.

    In full, it holds N C^2 numbers of 8 bytes: 1.2 GB for 256 positions of 768 channels, twice that while they are
    factored. Batches are merged as in `drorae.diagnostics.latents.latent_statistics`.

    Args:
        batches: latents float [B, N, C], on the device that does the work.
        images: how many there will be, which decides the form: in full from `FULL_FROM` C on, else diagonal.

    Raises:
        ValueError: another number of latents, or fewer than two.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for latents in batches:
        values = latents.double()
        if count == 0:
            full = images >= FULL_FROM * values.shape[2]
            mean = values.new_zeros(values.shape[1:])
            squares = values.new_zeros((*values.shape[1:], values.shape[2]) if full else values.shape[1:])
        batch, batch_mean = len(values), values.mean(0)
        shift = batch_mean - mean
        # The shift of the mean is one row more, so that nothing large cancels.
        rows = torch.cat([values - batch_mean, shift[None] * (count * batch / (count + batch)) ** 0.5])
        if squares.ndim == 3:
            squares.baddbmm_(rows.permute(1, 2, 0), rows.transpose(0, 1))
        else:
            squares += rows.square().sum(0)
        mean += shift * (batch / (count + batch))
        count += batch
    if count < 2 or count != images:
        raise ValueError(f"a Gaussian of {images} latents, got {count}; expected as many as announced, 2 or more")
    variance = squares.div_(count - 1)
    if variance.ndim == 3:
        diagonal = variance.diagonal(dim1=1, dim2=2)
        diagonal += JITTER * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
        root = torch.linalg.cholesky(variance)
    else:
        root = variance.sqrt()
    return PositionGaussian(mean.float(), root.float(), count)

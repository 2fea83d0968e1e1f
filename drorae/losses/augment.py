"""Differentiable augmentation before the discriminator (DiffAugment, arXiv 2006.10738)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8
"""Largest translation, as a share of the side (the paper's translation policy)."""


class Draws(NamedTuple):
    """What is random in an augmentation of B images."""

    colours: Tensor
    """[3, B, 1, 1, 1] in [0, 1): brightness, saturation, contrast."""
    shifts: Tensor
    """int64 [2, B, 1]: rows and columns."""

    def part(self, chosen: slice) -> Draws:
        """The draws of some of the images."""
        return Draws(self.colours[:, chosen], self.shifts[:, chosen])


def draw(count: int, height: int, width: int, device: torch.device) -> Draws:
    """Draws for `count` images from torch's global generator."""
    colours = torch.rand(3, count, 1, 1, 1, device=device)
    reach = (round(height * SHIFT), round(width * SHIFT))
    shifts = [torch.randint(0, 2 * side + 1, (count, 1), device=device) for side in reach]
    return Draws(colours, torch.stack(shifts))


def augment(images: Tensor, draws: Draws | None = None, shift_first: bool = False) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] -> the same, each changed in colour and position as drawn, or as drawn now.

    Gradients pass through. Colour and translation as the paper's policies, or the other way round (`shift_first`);
    cutout is off, as in RAE's published configuration.
    """
    count, _, height, width = images.shape
    draws = draws or draw(count, height, width, images.device)
    if shift_first:
        return _coloured(_shifted(images, draws.shifts), draws.colours)
    return _shifted(_coloured(images, draws.colours), draws.shifts)


def _coloured(images: Tensor, colours: Tensor) -> Tensor:
    brightness, saturation, contrast = colours.unbind()
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    return (images - level) * (contrast + 0.5) + level


def _shifted(images: Tensor, shifts: Tensor) -> Tensor:
    count, _, height, width = images.shape
    reach = (round(height * SHIFT), round(width * SHIFT))
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    rows = shifts[0] + torch.arange(height, device=images.device)
    columns = shifts[1] + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)

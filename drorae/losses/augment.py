"""Differentiable augmentation before the discriminator (DiffAugment, arXiv 2006.10738)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8
"""Largest translation, as a share of the side (the paper's translation policy)."""


def augment(images: Tensor) -> Tensor:
    """images [B, 3, H, W] in [-1, 1] -> the same, each changed in colour and position at random.

    Colour and translation as the paper's policies; cutout is off, as in RAE's published configuration. Draws from
    torch's global generator; gradients pass through.
    """
    batch, _, height, width = images.shape
    brightness, saturation, contrast = torch.rand(3, batch, 1, 1, 1, device=images.device).unbind()
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    images = (images - level) * (contrast + 0.5) + level
    reach = (round(height * SHIFT), round(width * SHIFT))
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    down = torch.randint(0, 2 * reach[0] + 1, (batch, 1), device=images.device)
    right = torch.randint(0, 2 * reach[1] + 1, (batch, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    which = torch.arange(batch, device=images.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)

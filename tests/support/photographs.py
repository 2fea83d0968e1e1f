"""Photographs of scikit-image, and versions of them that are worse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def crops(n: int, size: int = 32) -> Tensor:
    """uint8 [n, 3, size, size] out of a photograph."""
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(np.asarray(data.astronaut())).permute(2, 0, 1)
    corners = np.random.default_rng(0).integers(0, 512 - size, (n, 2))
    return torch.stack([photo[:, y : y + size, x : x + size] for y, x in corners])


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + deviation * noise).clamp(0, 255).round().to(torch.uint8)


def pairs(originals: Tensor, painted: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(list(zip(painted.split(batch), originals.split(batch), strict=True)))


def photo(name: str, size: int) -> Tensor:
    """A photograph of scikit-image, its central square at size x size: [1, 3, size, size] in [0, 1]."""
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(np.asarray(getattr(data, name)()))
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)

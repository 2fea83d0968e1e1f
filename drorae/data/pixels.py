"""Pixels of 8 bits, and the numbers between 0 and 1 that networks read and paint."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def as_images(pixels: Tensor) -> Tensor:
    """Returns uint8 [B, 3, H, W] as float32 in [0, 1]."""
    return pixels.float() / 255


def to_uint8(images: Tensor, quantise: Literal["round", "truncate"] = "round") -> Tensor:
    """Returns float images, nominally in [0, 1], as uint8: clamped, times 255, rounded half to even or truncated."""
    scaled = images.float().clamp(0, 1) * 255
    return (scaled.round() if quantise == "round" else scaled).to(torch.uint8)

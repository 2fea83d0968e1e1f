"""Per-image metrics on 8-bit images."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

MAX_PSNR = 100.0
"""dB given to an image painted without any error, so that a mean over images stays finite."""


def psnr(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns 10 log10(255^2 / mean squared error) in dB per image; uint8 [B, 3, H, W] twice -> float64 [B]."""
    error = (predicted.double() - target.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(255.0**2 / error)).clamp(max=MAX_PSNR)


def ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the structural similarity per image; uint8 [B, 3, H, W] twice -> float [B].

    Wang et al. 2004: Gaussian window, sigma 1.5, 11 px. The mean over all pixels, the image reflected at its borders,
    as torchmetrics has it; scikit-image leaves out a border of 5 px, which matters on small crops.
    """
    # float32: torch's float64 convolution takes 25 times as long, for the sixth digit.
    value = structural_similarity_index_measure(predicted.float(), target.float(), data_range=255.0, reduction="none")
    return torch.as_tensor(value).reshape(-1)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute error per image, of values in [0, 1]; uint8 twice -> float64 [B]."""
    return (predicted.double() - target.double()).abs().mean((1, 2, 3)) / 255

"""Per-image metrics on 8-bit images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PSNR = 100.0
"""dB given to an image painted without any error, so that a mean over images stays finite."""


def psnr(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns 10 log10(255^2 / mean squared error) in dB per image; uint8 [B, 3, H, W] twice -> float64 [B]."""
    error = (predicted.double() - target.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(255.0**2 / error)).clamp(max=MAX_PSNR)


def ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the structural similarity per image; uint8 [B, 3, H, W] twice, sides of at least 6 -> float64 [B].

    Wang et al. 2004: Gaussian window, sigma 1.5, 11 px. The mean over all pixels, the image reflected at its borders,
    as torchmetrics has it; scikit-image leaves out a border of 5 px, which matters on small crops.
    """
    # By products with a matrix per axis: torch's grouped convolution takes several times as long, and importing
    # torchmetrics a second and a half.
    x, y = predicted.double(), target.double()
    down, across = (_window(side, x.device) for side in x.shape[-2:])

    def blurred(values: Tensor) -> Tensor:
        return down @ values @ across.T

    mean_x, mean_y = blurred(x), blurred(y)
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    spread, shared = blurred(x.square() + y.square()) - squares, blurred(x * y) - product
    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * product + light) * (2 * shared + contrast) / ((squares + light) * (spread + contrast))
    return similar.mean((1, 2, 3))


def _window(side: int, device: torch.device) -> Tensor:
    """The matrix [side, side] that blurs one axis, reflected at its ends."""
    weights = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    rows = F.pad(torch.eye(side, dtype=torch.float64)[:, None], (5, 5), mode="reflect")
    return F.conv1d(rows, (weights / weights.sum())[None, None])[:, 0].T.to(device)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute error per image, of values in [0, 1]; uint8 twice -> float64 [B]."""
    return (predicted.double() - target.double()).abs().mean((1, 2, 3)) / 255

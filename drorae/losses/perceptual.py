"""The perceptual term: distance between stage features of a frozen network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from drorae.config import ObjectiveConfig
from drorae.models.effnet import MEAN, STD, load_effnet
from drorae.models.folding import streamline
from drorae.models.wheels import LITE0
from drorae.runtime.products import at_least_float32, marked, products_in

STAGES = (0, 1, 2, 4)
"""Blocks after which features are read: strides 2, 4, 8 and 16 (16, 24, 40 and 112 channels). The last stage,
a third of the network, sees 2 x 2 positions of a 64 px crop and is left out."""


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear resizing with antialiasing of images [B, C, H, W] to [B, C, size, size], in float32 or more.

    As two matrix products: the gradient of torch's own kernel adds in another order every time on CUDA.
    """
    images = at_least_float32(images)
    units = (torch.eye(side, dtype=images.dtype, device=images.device) for side in images.shape[-2:])
    rows, columns = (
        F.interpolate(unit[None, None], size=(size, len(unit)), mode="bilinear", antialias=True)[0, 0] for unit in units
    )
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images @ columns.mT


class PerceptualNetwork(nn.Module):
    """LPIPS's distance (arXiv 1801.03924, Eq. 1) with unit channel weights, on EfficientNet-Lite0's features."""

    def __init__(self, network: EfficientNet, size: int, precision: str = "fp32") -> None:
        super().__init__()
        network.eval()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks = nn.Sequential(*list(network.blocks)[: STAGES[-1] + 1])
        streamline(self)
        self.to(memory_format=torch.channels_last)
        self.size, self.precision = size, precision
        self.fingerprint = marked(f"{LITE0.fingerprint}-{size}px-stages{''.join(map(str, STAGES))}", precision)
        with torch.no_grad():
            self._shapes = [tuple(f.shape[1:]) for f in self.features(torch.zeros(1, 3, size, size))]
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W], nominally in [0, 1] -> per stage [B, C_i, h_i, w_i] of unit norm over C_i."""
        if images.shape[-2:] != (self.size, self.size):
            images = resize(images, self.size)
        found = []
        with products_in(self.precision, images.device):
            x = self.stem(((images - MEAN) / STD).contiguous(memory_format=torch.channels_last))
            for index, block in enumerate(self.blocks):
                x = block(x)
                if index in STAGES:
                    found.append(F.normalize(at_least_float32(x), dim=1, eps=1e-6))
        return found

    def distance(self, predicted: list[Tensor], target: list[Tensor]) -> Tensor:
        """Sum over stages of the mean over images and positions of |f - g|^2; a scalar, 0 to 4 per stage."""
        parts = [(f - g).square().sum(1).mean() for f, g in zip(predicted, target, strict=True)]
        return torch.stack(parts).sum()

    def flat_size(self) -> int:
        """Numbers per image in a packed target."""
        return sum(c * h * w for c, h, w in self._shapes)

    def targets(self, images: Tensor) -> Tensor:
        """Returns the features of images [B, 3, H, W], of all stages in one [B, flat_size] float16 tensor."""
        return torch.cat([f.flatten(1) for f in self.features(images)], dim=1).half()

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """Returns the features, in float32, that `targets` packed."""
        parts = torch.split(packed.float(), [c * h * w for c, h, w in self._shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]


def load_perceptual(config: ObjectiveConfig) -> PerceptualNetwork:
    """The effnet network at a config's size."""
    return PerceptualNetwork(load_effnet(LITE0), config.perceptual_size, config.perceptual_precision)

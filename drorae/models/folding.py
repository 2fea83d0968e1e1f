"""A frozen EfficientNet made faster, up to rounding the same: batch norms folded, padding inside convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class PaddedConv(nn.Module):
    """TensorFlow's `SAME` convolution of stride 2 without a padded copy of its input.

    On even sides it pads one row and column more below and right than above and left: as much as a kernel with one row
    and column of zeros more before its own, padded alike on all sides.
    """

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("weight", F.pad(conv.weight.detach(), (1, 0, 1, 0)))
        self.padding = (conv.kernel_size[0] - 1) // 2

    weight: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, D, ceil(H / 2), ceil(W / 2)]."""
        if images.shape[-1] % 2 or images.shape[-2] % 2:
            found: Tensor = self.conv(images)
            return found
        return F.conv2d(images, self.weight, self.conv.bias, 2, self.padding, 1, self.conv.groups)


def streamline(network: nn.Module, in_place: bool = False) -> None:
    """Replaces, in place, every convolution that a batch norm follows by one that does both, and that pads by itself.

    Only for frozen networks in evaluation mode, whose modules follow one another as they are listed, as timm's
    EfficientNets do. What the norm did beside (timm's `BatchNormAct2d` has the activation) stays in its place.

    Args:
        network: the network.
        in_place: let activations write over their input: a third faster without gradients; with them, torch would
            compute them aside and copy them back.
    """
    for (name, first), (after, second) in pairwise(list(network.named_children())):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(network, name, fuse_conv_bn_eval(first, second))
            activation = getattr(second, "act", nn.Identity())
            if hasattr(activation, "inplace"):
                activation.inplace = in_place
            setattr(network, after, activation)
    for name, child in network.named_children():
        if isinstance(child, Conv2dSame) and _pads_more_behind(child):
            setattr(network, name, PaddedConv(child))
        else:
            streamline(child, in_place)


def _pads_more_behind(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one that `PaddedConv` knows: square and odd, of stride 2, larger than one pixel."""
    side = conv.kernel_size[0]
    return (
        conv.kernel_size == (side, side) and side % 2 == 1 < side and conv.stride == (2, 2) and conv.dilation == (1, 1)
    )

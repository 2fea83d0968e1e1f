"""Streamlined networks compute what they did."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from drorae.models.effnet import load_effnet
from drorae.models.folding import PaddedConv, streamline
from drorae.models.wheels import LITE0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_streamlined_network_gives_the_same_and_has_no_batch_norm(in_place: bool) -> None:
    network, quick = load_effnet(LITE0), load_effnet(LITE0)
    streamline(quick, in_place)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert any(isinstance(module, PaddedConv) for module in quick.modules())
    # At 100 px a side is odd on the way.
    for side in (64, 100):
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        torch.testing.assert_close(quick(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", [(8, 8), (9, 9), (8, 6), (7, 8), (2, 2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_padding_inside_is_tensorflow_s(kernel: int, side: tuple[int, int], groups: int) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(4, 4, kernel, stride=2, groups=groups).double()
    images = torch.randn(2, 4, *side, dtype=torch.float64, requires_grad=True)
    expected, found = conv(images), PaddedConv(conv)(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pull = torch.randn_like(expected)
    (wanted,), (got,) = (torch.autograd.grad(each, images, pull) for each in (expected, found))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)

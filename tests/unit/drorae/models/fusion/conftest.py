"""The backbone's norm, and layers of very different scales."""

from __future__ import annotations

import pytest
import torch
from small_fusion import LAYERS, TOKENS, WIDTH
from torch import nn


@pytest.fixture
def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-6, elementwise_affine=False)


@pytest.fixture
def layers() -> torch.Tensor:
    scales = torch.tensor([0.2, 1.0, 3.0, 8.0, 20.0]).view(1, LAYERS, 1, 1)
    return torch.randn(3, LAYERS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)) * scales

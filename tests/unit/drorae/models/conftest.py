"""A photograph as encoders see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def photo_224() -> torch.Tensor:
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(data.astronaut()).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255

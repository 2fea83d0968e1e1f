"""A batch of training items, and what cuts its crops.

Apart from the encoder, because processes that cut crops have no use for that, and it takes seconds to import.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.crops import ImageSet


class Batch(NamedTuple):
    """B training items."""

    pixels: Tensor
    """uint8 [B, 3, H, W]: the crops, as the decoder should paint them."""
    layers: Tensor
    """[B, n, N, C] in the feature type: raw outputs of the deepest n blocks."""
    targets: Tensor | None
    """[B, D] float16: the perceptual network's packed features of the crops; None: not cached."""

    def pinned(self) -> Batch:
        """Returns the same in pinned memory, from which a GPU copies while it computes."""
        return Batch(*(None if part is None else part.pin_memory() for part in self))  # type: ignore[arg-type]


def crops_of(images: ImageSet, items: np.ndarray, epoch_view: int) -> np.ndarray:
    """Returns crops [B, S, S, 3] of items, in their order; one call per view among them."""
    views = items // len(images) + epoch_view
    if len(np.unique(views)) == 1:
        return images.crops((items % len(images)).tolist(), int(views[0]))
    places = [np.flatnonzero(views == view) for view in np.unique(views)]
    crops = [images.crops((items[place] % len(images)).tolist(), int(views[place[0]])) for place in places]
    return np.concatenate(crops)[np.argsort(np.concatenate(places))]


class Cutter:
    """Cuts the crops of a set's items; another process can be sent it.

    `views = 0` takes a fresh crop of every image each epoch.
    """

    def __init__(self, images: ImageSet, views: int) -> None:
        self.images, self.views = images, views

    def __call__(self, items: np.ndarray, epoch: int) -> Batch:
        """Returns crops of items [B], without layers and targets."""
        pixels = crops_of(self.images, items, epoch if self.views == 0 else 0)
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.empty(len(items), 0), None)

"""Sets of images, real or made, as what a network sees in them: read in batches, a part by each process of a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drorae.data import crops
from drorae.data.batch import crops_of
from drorae.data.features import Features
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.generation import ImageFeatures, image_features
from drorae.runtime import distributed, out_of_memory
from drorae.training.loop import Report, Row


@dataclass(frozen=True)
class ImageSet:
    """Images to be measured."""

    count: int
    size: int
    """So many at once, or fewer where memory runs out."""
    part: Callable[[range, int], Iterator[Tensor]]
    """Yields a part of them that begins at a multiple of a size, in batches uint8 [size or fewer, 3, H, W]."""

    def features(self, extractor: FeatureExtractor) -> ImageFeatures:
        """Returns their features; where several processes are at work, in the main one those of all.

        Each goes through a part, cut into the batches that one process takes: the same bits as one process's.

        Raises:
            UserError: not even one image at a time fits.
        """

        def own(size: int) -> tuple[ImageFeatures, list[int]]:
            mine = distributed.my_part(self.count, size)
            sizes = [len(items) for items in in_parts(mine, size)]
            return image_features(self.part(mine, size), extractor), sizes

        size, what = min(self.size, self.count), f"features of {extractor.metric}"
        (found, sizes), _ = out_of_memory.retry_smaller(size, own, what, together=True)
        for rows, places in distributed.from_others(found.batches(sizes)):
            found = found.joined(rows, places)
        return found


class Progress:
    """How many images of several sets have been looked at, one set after the other.

    Args:
        report: hears of it, batch by batch.
        phase: of its rows.
        note: what is done to the images.
        total: images of all the sets.
    """

    def __init__(self, report: Report, phase: str, note: str, total: int) -> None:
        self._row: Row = {"phase": phase, "note": note, "total": float(total)}
        self._report, self._before = report, 0
        report(self._row | {"done": 0.0})

    def watch(self, images: ImageSet) -> ImageSet:
        """Returns the next of the sets, which counts as done once another is watched, looked at or not."""
        before = self._before
        self._before += images.count

        def part(items: range, size: int) -> Iterator[Tensor]:
            done = 0
            for batch in images.part(items, size):
                # Other processes are as far in their parts.
                self._report(self._row | {"done": float(before + images.count * done // len(items))})
                yield batch
                done += len(batch)

        return ImageSet(images.count, images.size, part)


def in_parts(items: range, size: int) -> Iterator[np.ndarray]:
    """Yields the numbers of items, `size` at once."""
    for start in range(items.start, items.stop, size):
        yield np.arange(start, min(start + size, items.stop))


def real_images(features: Features, size: int, device: torch.device) -> ImageSet:
    """Returns the images that features are of, `size` at once on a device."""

    def part(items: range, size: int) -> Iterator[Tensor]:
        for batch in in_parts(items, size):
            yield features.batch(batch, 0, 0).pixels.to(device)

    return ImageSet(len(features), size, part)


def cropped_images(images: crops.ImageSet, views: int, size: int, device: torch.device) -> ImageSet:
    """Returns images in so many views, all in one and then all in the next, cut when they are read."""

    def part(items: range, size: int) -> Iterator[Tensor]:
        for batch in in_parts(items, size):
            yield torch.from_numpy(crops_of(images, batch, 0)).permute(0, 3, 1, 2).to(device)

    return ImageSet(views * len(images), size, part)

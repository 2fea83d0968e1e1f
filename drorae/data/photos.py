"""The colour photographs inside the scikit-image and scikit-learn wheels, read from disk and never downloaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images
from drorae.errors import UserError
from drorae.storage.files import packaged_path

# Colour photographs only: no micrographs, charts or star fields. Of the motorcycle's stereo pair only the left
# one, because the right one shows the same pixels shifted across the train/validation line.
PHOTOS = (
    ("skimage", "scikit-image", "data/astronaut.png"),
    ("skimage", "scikit-image", "data/chelsea.png"),
    ("skimage", "scikit-image", "data/coffee.png"),
    ("skimage", "scikit-image", "data/motorcycle_left.png"),
    ("skimage", "scikit-image", "data/rocket.jpg"),
    ("sklearn", "scikit-learn", "datasets/images/china.jpg"),
    ("sklearn", "scikit-learn", "datasets/images/flower.jpg"),
)
TRAIN_SHARE = 0.6
"""Of a photograph's longer side."""
TRAIN_CROPS, VAL_CROPS = 3000, 1500
LARGEST_SCALE = 8
"""Pixels of a photograph per pixel of a crop."""


def read_photos() -> list[np.ndarray]:
    """Returns the photographs as uint8 arrays [H, W, 3] of 300 to 741 pixels a side, in the order of `PHOTOS`.

    The packages are located, not imported, so nothing of theirs can reach for the network.

    Raises:
        UserError: a package is not installed, or its wheel lacks a photograph.
    """
    return [np.asarray(Image.open(_locate(*photo)).convert("RGB")) for photo in PHOTOS]


def split_photo(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns disjoint parts (training, validation) of a photograph [H, W, 3], cut across its longer side."""
    axis = 0 if pixels.shape[0] > pixels.shape[1] else 1
    train, val = np.split(pixels, [round(TRAIN_SHARE * pixels.shape[axis])], axis=axis)
    return train, val


def load_photos(config: ImagesConfig) -> Images:
    """Opens the crops of the photographs, training and validation ones from disjoint parts of each.

    Raises:
        UserError: a photograph is not there, or all are too small.
    """
    pairs = [split_photo(pixels) for pixels in read_photos()]
    # Both parts or none, so that training and validation show the same photographs.
    fitting = [pair for pair in pairs if min(side for part in pair for side in part.shape[:2]) >= config.size]
    if not fitting:
        largest = max(min(side for part in pair for side in part.shape[:2]) for pair in pairs)
        raise UserError(
            f"images.size: {config.size} is too large for the bundled photographs; "
            f"give at most {largest}, or choose images.source=folder or npz"
        )

    def build(parts: list[np.ndarray], count: int, training: bool) -> CropSet:
        content = (item for part in parts for item in (str(part.shape).encode(), part.tobytes()))
        return CropSet(partial(_cut_photo, parts, config.size), np.arange(count), config, training, content)

    return Images(
        build([train for train, _ in fitting], config.train_images or TRAIN_CROPS, True),
        build([val for _, val in fitting], config.val_images or VAL_CROPS, False),
    )


def _locate(package: str, distribution: str, name: str) -> Path:
    path = packaged_path(package, name)
    if path is None:
        raise UserError(
            f"images.source=photos needs {name} of {distribution}, which is not installed or lacks it: "
            f"pip install {distribution} (--force-reinstall, if it is there), or choose images.source=folder or npz"
        )
    return path


def _cut_photo(parts: list[np.ndarray], size: int, item: int, generator: np.random.Generator, least: int) -> np.ndarray:
    """A square of log-uniform side anywhere in the part that `item` falls on; parts are taken in turn."""
    part = parts[item % len(parts)]
    largest = min(LARGEST_SCALE * size, *part.shape[:2])
    side = min(largest, round(size * (largest / size) ** generator.random()))
    top, left = (int(generator.integers(extent - side + 1)) for extent in part.shape[:2])
    return part[top : top + side, left : left + side]

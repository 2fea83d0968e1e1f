"""The colour photographs inside the scikit-image and scikit-learn wheels, read from disk and never downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from drorae.errors import UserError

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


def read_photos() -> list[np.ndarray]:
    """The photographs as uint8 arrays [H, W, 3] of 300 to 741 pixels a side, in the order of `PHOTOS`.

    The packages are located, not imported, so nothing of theirs can reach for the network.

    Raises:
        UserError: a package is not installed, or its wheel lacks a photograph.
    """
    return [np.asarray(Image.open(_locate(*photo)).convert("RGB")) for photo in PHOTOS]


def split_photo(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint (train, validation) parts of a photograph [H, W, 3], cut across its longer side at `TRAIN_SHARE`."""
    axis = 0 if pixels.shape[0] > pixels.shape[1] else 1
    train, val = np.split(pixels, [round(TRAIN_SHARE * pixels.shape[axis])], axis=axis)
    return train, val


def _locate(package: str, distribution: str, name: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(
            f"images.source=photos needs the photographs inside {distribution}, which is not installed: "
            f"pip install {distribution}, or choose images.source=folder or npz"
        )
    path = Path(spec.origin).parent / name
    if not path.is_file():
        raise UserError(
            f"images.source=photos needs {path}, which this {distribution} does not ship: "
            f"pip install --force-reinstall {distribution}, or choose images.source=folder or npz"
        )
    return path

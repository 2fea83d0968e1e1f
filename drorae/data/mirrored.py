"""Images as RAE takes the statistics of latents over: ADM's centre crop, as it is and flipped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from drorae.data.crops import CropSet

VIEWS = 2
"""The crop and its flip."""


class Mirrored:
    """The evaluation crops of a set of images, training images as a rule, and their flips as a second view.

    RAE's normalisation is of these (its src/calculate_stat.py), not of the crops that a decoder trains on.

    Args:
        images: the set.
        limit: at most so many images, evenly spaced over the set; 0, the default: all.

    `labels`, `captions` and `labels_fingerprint` are those of the images, as `CropSet` has them.
    """

    def __init__(self, images: CropSet, limit: int = 0) -> None:
        self._images = images.centred()
        self._chosen = np.linspace(0, len(images) - 1, min(limit or len(images), len(images))).astype(int)
        digest = hashlib.sha256(f"mirrored {self._images.fingerprint}".encode())
        digest.update(self._chosen.astype("<i8").tobytes())
        self.fingerprint = digest.hexdigest()
        annotations = images.annotations.taken(self._chosen)
        self.labels, self.captions = annotations.labels, annotations.captions
        self.labels_fingerprint = annotations.labels_fingerprint

    def __len__(self) -> int:
        return len(self._chosen)

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        """Returns crops as uint8 RGB [len(indices), size, size, 3], flipped from left to right in odd views."""
        crops = self._images.crops(self._chosen[list(indices)].tolist())
        # torch takes no negative strides.
        return np.ascontiguousarray(crops[:, :, ::-1]) if view % VIEWS else crops

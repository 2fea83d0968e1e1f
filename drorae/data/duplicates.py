"""Images that stand on both sides of the line between training and validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from drorae.errors import OF_IMAGES, Notice, printable

SIDE = 16
FLAT = 16
"""Grey levels of 256, below which a picture has no features to tell it by."""
NEAR_BITS = 28
"""Of the SIDE^2 = 256 bits of a hash; of 1000 ImageNet photographs the two most alike differ in 47, a
photograph and its copy of 0.6 times the size and JPEG quality 75 in 7 (median) to 24 (99th percentile)."""
READ_SIDE = 128
"""Pixels a side that suffice: smaller ones, as a JPEG gives them out in less time, blur the hash."""
EXAMPLES = 3


class Portrait(NamedTuple):
    """What tells an image from others."""

    name: str
    identity: bytes
    """Equal for equal bytes."""
    look: bytes
    """`perceptual_hash`; empty where there is none."""


def perceptual_hash(image: Image.Image) -> bytes:
    """Returns the difference hash of a picture, 256 bits: whether each of 16 x 16 cells is brighter than its left one.

    Copies of another size, quality or brightness differ in a few bits. Empty for a picture that is all but flat.
    """
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes() if np.ptp(grey) >= FLAT else b""


def report_shared(train: Sequence[Portrait], val: Sequence[Portrait]) -> list[str]:
    """Warns of validation images that are training images as well, or look like one; returns what it said."""
    known = {portrait.identity: portrait.name for portrait in train}
    same = [(portrait.name, known[portrait.identity]) for portrait in val if portrait.identity in known]
    near = _alike([portrait for portrait in val if portrait.identity not in known], train)
    found = []
    for pairs, what in ((same, "are also training images, byte for byte"), (near, "look like a training image")):
        if pairs:
            some = ", ".join(f"{printable(own)} and {printable(other)}" for own, other in pairs[:EXAMPLES])
            some += ", ..." if len(pairs) > EXAMPLES else ""
            found.append(f"{OF_IMAGES}{len(pairs)} of {len(val)} validation images {what}: {some}")
    for text in found:
        warnings.warn(text, Notice, stacklevel=5)
    return found


def _alike(val: Sequence[Portrait], train: Sequence[Portrait]) -> list[tuple[str, str]]:
    """Names of images whose hashes differ in at most `NEAR_BITS`, each with the nearest one's."""
    val, train = ([portrait for portrait in side if portrait.look] for side in (val, train))
    if not val or not train:
        return []
    known = _signs(train)
    found = []
    for start in range(0, len(val), 256):
        part = val[start : start + 256]
        # Of two rows of +1 and -1, the product is the number of equal bits less that of different ones.
        products = _signs(part) @ known.T
        nearest = products.argmax(1)
        bits = (SIDE**2 - products[np.arange(len(part)), nearest]) / 2
        found += [(part[i].name, train[nearest[i]].name) for i in np.flatnonzero(bits <= NEAR_BITS)]
    return found


def _signs(portraits: Sequence[Portrait]) -> np.ndarray:
    hashes = np.frombuffer(b"".join(portrait.look for portrait in portraits), np.uint8).reshape(len(portraits), -1)
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1

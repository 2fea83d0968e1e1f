"""Pictures of images side by side, and the PNG of held-out images that says which step it is of. Without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drorae.storage.files import replacing

STEP = "step"
"""Text of the PNG that says after which step of its phase it was painted."""


def mosaic(rows: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Returns rows of pictures [N, H, W, ...] as one picture, `gap` pixels of NaN between them.

    One picture in one set of axes: dozens of axes take matplotlib seconds.
    """
    pictures = np.stack(rows).astype(float)
    frame = [(0, 0), (0, 0), (0, gap), (0, gap)] + [(0, 0)] * (pictures.ndim - 4)
    framed = np.pad(pictures, frame, constant_values=np.nan).swapaxes(1, 2)
    height, width = framed.shape[0] * framed.shape[1], framed.shape[2] * framed.shape[3]
    return framed.reshape(height, width, *framed.shape[4:])[:-gap, :-gap]


def write_mosaic(path: Path, rows: Sequence[np.ndarray], text: PngInfo | None = None) -> None:
    """Writes rows of images uint8 [N, H, W, 3] as a PNG, pixel by pixel, white between them.

    Raises:
        OSError: the disk does not take it.
    """
    picture = mosaic(rows, max(1, rows[0].shape[1] // 16))
    with replacing(path) as temporary:
        Image.fromarray(np.nan_to_num(picture, nan=255).astype(np.uint8)).save(temporary, pnginfo=text)


def write_picture(path: Path, originals: np.ndarray, painted: np.ndarray, step: int) -> None:
    """Writes a PNG: originals in its first row, their reconstructions in the second, pixel by pixel.

    Args:
        path: the file, replaced at once.
        originals: uint8 [N, H, W, 3].
        painted: their reconstructions, alike.
        step: after which step of its phase the tokenizer painted them.

    Raises:
        OSError: the disk does not take it.
    """
    text = PngInfo()
    text.add_text(STEP, str(step))
    write_mosaic(path, [originals, painted], text)


def read_picture(file: Path | BinaryIO, step: int) -> Image.Image | None:
    """Returns the picture in a file, where that is of this step; None of any other, and where there is no whole one."""
    # Pillow has a SyntaxError and a ValueError for what is broken.
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(file) as picture:
        if picture.info.get(STEP) == str(step):
            return picture.convert("RGB")
    return None

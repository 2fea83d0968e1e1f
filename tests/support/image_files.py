"""Pictures as files, and the image sets made of them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.crops import ImageSet
from drorae.data.images import load_images
from drorae.errors import UserError


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture(index).save(folder / f"{index:03}.png")


def jpeg(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def folder_config(path: Path, **changes: Any) -> ImagesConfig:
    return replace(ImagesConfig(source="folder", path=str(path), size=16), **changes)


def everything(images: ImageSet, view: int = 0) -> np.ndarray:
    return images.crops(range(len(images)), view)


def user_error(config: ImagesConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_images(config)
    message = str(caught.value)
    assert "\n" not in message
    return message

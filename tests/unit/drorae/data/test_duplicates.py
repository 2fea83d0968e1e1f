"""Images on both sides of the line."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from image_files import picture
from PIL import Image

from drorae.data.duplicates import NEAR_BITS, Portrait, perceptual_hash, report_shared
from drorae.data.photos import read_photos
from drorae.errors import Notice


def bits(first: bytes, second: bytes) -> int:
    return (int.from_bytes(first) ^ int.from_bytes(second)).bit_count()


def jpeg_of(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def test_copies_of_a_photograph_are_near_and_photographs_are_far_apart() -> None:
    photos = [Image.fromarray(pixels) for pixels in read_photos()]
    hashes = [perceptual_hash(photo) for photo in photos]
    for photo, own in zip(photos, hashes, strict=True):
        copies = (
            photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC),
            jpeg_of(photo, 40),
            photo.point(lambda value: round(0.9 * value)),
        )
        assert max(bits(own, perceptual_hash(copy)) for copy in copies) <= NEAR_BITS
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 2 * NEAR_BITS


def test_a_flat_picture_is_like_no_other() -> None:
    assert perceptual_hash(Image.new("RGB", (64, 64), "white")) == b""
    flat = [Portrait("a", b"a", b""), Portrait("b", b"b", b"")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report_shared(flat[:1], flat[1:]) == []
        assert report_shared([], []) == []


def test_only_three_examples_are_named() -> None:
    looks = [perceptual_hash(picture(seed, 160, 120)) for seed in range(9)]
    train = [Portrait(f"train{i}", bytes([i]), look) for i, look in enumerate(looks)]
    same = [Portrait(f"val{i}", bytes([i]), look) for i, look in enumerate(looks[:4])]
    near = [Portrait("near\n", b"other", looks[8])]
    with pytest.warns(Notice):
        first, second = report_shared(train, same + near)
    assert first.endswith("byte for byte: val0 and train0, val1 and train1, val2 and train2, ...")
    assert second == "images: 1 of 5 validation images look like a training image: 'near\\n' and train8"


def test_many_are_compared_with_many() -> None:
    rng = np.random.default_rng(0)
    train, val = ([Portrait(str(i), bytes([s]) + i.to_bytes(2), rng.bytes(32)) for i in range(600)] for s in range(2))
    val[599] = val[599]._replace(look=train[7].look)
    with pytest.warns(Notice, match="1 of 600 validation images look like a training image: 599 and 7"):
        report_shared(train, val)

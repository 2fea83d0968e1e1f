"""Crops of photographs: the same every time, and of training and validation without a common pixel."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from image_files import everything, user_error

import drorae.data.collection
from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.data.photos import read_photos, split_photo


def test_photos_are_the_default_and_repeat_themselves() -> None:
    images = load_images(ImagesConfig())
    assert (len(images.train), len(images.val), images.skipped) == (3000, 1500, ())
    again = load_images(ImagesConfig())
    indices = [2999, 0, 17]
    assert images.train.crops(indices).shape == (3, 32, 32, 3)
    assert images.train.crops(indices).dtype == np.uint8
    assert np.array_equal(images.train.crops(indices), again.train.crops(indices))
    assert np.array_equal(images.train.crops([17])[0], images.train.crops(indices)[2])
    assert images.train.fingerprint == again.train.fingerprint != images.val.fingerprint
    other = load_images(ImagesConfig(seed=1))
    assert not np.array_equal(images.train.crops(indices), other.train.crops(indices))
    assert other.train.fingerprint != images.train.fingerprint and other.val.fingerprint != images.val.fingerprint


def test_photo_crops_do_not_depend_on_how_many_there_are() -> None:
    few, many = (load_images(ImagesConfig(train_images=n, val_images=n)) for n in (5, 50))
    assert (len(few.train), len(many.val)) == (5, 50)
    assert np.array_equal(everything(few.train), many.train.crops(range(5)))
    assert np.array_equal(everything(few.val), many.val.crops(range(5)))


@pytest.mark.parametrize("size", [32, 64, 200])
def test_photo_crops_for_training_and_validation_share_no_pixel(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Photographs whose pixels spell their own position, and crops left as they were cut out.
    coordinates = []
    for number, photo in enumerate(read_photos()):
        height, width = photo.shape[:2]
        rows, columns = np.mgrid[:height, :width]
        coded = (number << 20) + (rows << 10) + columns
        coordinates.append(np.stack([coded >> 16, coded >> 8, coded], -1).astype(np.uint8))
    monkeypatch.setattr(drorae.data.photos, "read_photos", lambda: coordinates)
    seen = {name: np.zeros(len(coordinates) << 20, bool) for name in ("train", "val")}
    sides = []

    def record(name: str, pixels: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
        seen[name][(red << 16) + (green << 8) + blue] = True
        sides.append(len(pixels))
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(drorae.data.crops, "train_crop", lambda image, *_: record("train", image))
    monkeypatch.setattr(drorae.data.crops, "centre_crop", lambda image, _: record("val", image))
    images = load_images(ImagesConfig(size=size, train_images=150, val_images=150))
    for view in range(2):
        everything(images.train, view)
        everything(images.val, view)
    assert seen["train"].any() and seen["val"].any() and not (seen["train"] & seen["val"]).any()
    assert min(sides) >= size and max(sides) > 1.2 * size


def test_a_photo_is_split_into_parts_that_make_it_up() -> None:
    for photo in read_photos():
        train, val = split_photo(photo)
        axis = 0 if train.shape[1] == photo.shape[1] else 1
        assert np.array_equal(np.concatenate([train, val], axis), photo)


def test_photos_too_small_for_the_size_are_refused() -> None:
    assert load_images(ImagesConfig(size=256, val_images=2)).val.crops([0]).shape == (1, 256, 256, 3)
    message = user_error(ImagesConfig(size=2000))
    assert "images.size" in message and "at most 296" in message


def test_photos_name_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install scikit-learn" in user_error(ImagesConfig())

"""The two crops against the published procedure and windows of a resize; which settings a crop depends on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import everything, folder_config, picture, write_pictures
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data import crops
from drorae.data.crops import centre_crop, train_crop
from drorae.data.images import load_images


@pytest.mark.parametrize("shape", [(288, 401), (500, 375), (64, 64), (17, 90), (63, 127)])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_centre_crop_is_the_adm_procedure(shape: tuple[int, int], size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    # Halving is written here as a mean of two columns, then of two rows, where the sides are even.
    expected = pixels
    while min(expected.shape[:2]) >= 2 * size:
        height, width = expected.shape[:2]
        if height % 2 or width % 2:
            halved = Image.fromarray(expected).resize((width // 2, height // 2), Image.Resampling.BOX)
            expected = np.asarray(halved)
        else:
            columns = (expected[:, 0::2].astype(int) + expected[:, 1::2] + 1) // 2
            expected = ((columns[0::2] + columns[1::2] + 1) // 2).astype(np.uint8)
    height, width = expected.shape[:2]
    scale = size / min(height, width)
    resized = Image.fromarray(expected).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    top, left = (resized.height - size) // 2, (resized.width - size) // 2
    expected = np.asarray(resized)[top : top + size, left : left + size]

    crop = centre_crop(pixels, size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    assert np.array_equal(crop, expected)
    assert np.array_equal(crop, centre_crop(Image.fromarray(pixels), size))


def test_both_crops_leave_an_image_of_the_right_size_alone() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(centre_crop(pixels, 32), pixels)
    assert np.array_equal(train_crop(pixels, 32, 0, np.random.default_rng(0)), pixels)


def test_train_crop_cuts_a_square_out_of_the_bicubic_resize() -> None:
    image = picture(2, 90, 60)
    resized = np.asarray(image.resize((60, 40), Image.Resampling.BICUBIC))
    corners = set()
    for seed in range(300):
        crop = train_crop(image, 32, 40, np.random.default_rng(seed))
        windows = np.lib.stride_tricks.sliding_window_view(resized, (32, 32, 3))[..., 0, :, :, :]
        hits = np.argwhere((windows == crop).all((2, 3, 4)))
        assert len(hits) == 1
        corners.add(tuple(hits[0]))
    tops, lefts = ({corner[axis] for corner in corners} for axis in (0, 1))
    assert tops == set(range(9)) and lefts == set(range(29))


@pytest.mark.parametrize(("width", "height"), [(90, 60), (333, 500), (31, 40), (700, 41)])
def test_torch_s_training_crops_are_pillow_s_up_to_rounding(width: int, height: int) -> None:
    image = picture(2, width, height)
    for seed in range(20):
        by_pillow, by_torch = (
            train_crop(image, 32, 40, np.random.default_rng(seed), by).astype(int) for by in ("pillow", "torch")
        )
        # A square that is one pixel off is 10 away.
        assert by_torch.shape == (32, 32, 3) and np.abs(by_torch - by_pillow).max() <= 2
        assert (by_torch != by_pillow).mean() < 0.02


@pytest.mark.parametrize("shape", [(2, 50), (5, 5), (33, 31)])
def test_small_images_are_enlarged(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    for crop in (centre_crop(pixels, 32), train_crop(pixels, 32, 48, np.random.default_rng(0))):
        assert crop.shape == (32, 32, 3) and (crop == 77).all()


def test_views_change_training_crops_only() -> None:
    images = load_images(ImagesConfig(train_images=8, val_images=8))
    first, second = everything(images.train), everything(images.train, view=1)
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(everything(images.val), everything(images.val, view=1))


def test_fingerprints_follow_the_crop_settings(tmp_path: Path) -> None:
    write_pictures(tmp_path, 8)
    plain = load_images(folder_config(tmp_path))
    for change in ({"resize": 24}, {"seed": 1}, {"views": 2}):
        changed = load_images(folder_config(tmp_path, **change))
        assert changed.train.fingerprint != plain.train.fingerprint
        assert changed.val.fingerprint == plain.val.fingerprint
    assert load_images(folder_config(tmp_path, resize=16)).train.fingerprint == plain.train.fingerprint
    assert load_images(folder_config(tmp_path, size=8)).val.fingerprint != plain.val.fingerprint


def test_fingerprints_stay_what_they_were_before_a_setting_came(tmp_path: Path) -> None:
    """Of the settings of 0.1.0: another one would have every cache made anew."""
    pixels = (np.arange(4 * 16 * 16 * 3).reshape(4, 16, 16, 3) % 251).astype(np.uint8)
    np.savez(tmp_path / "images.npz", train=pixels, val=pixels[:2] + 3)
    images = load_images(ImagesConfig(source="npz", path=str(tmp_path / "images.npz"), size=16))
    assert images.train.fingerprint.startswith("1b468bc0494bb51d")
    assert images.val.fingerprint.startswith("e361832dd13e4456")


def test_image_sets_travel_to_other_processes_and_know_their_bounds(tmp_path: Path) -> None:
    write_pictures(tmp_path, 8)
    for images in (load_images(folder_config(tmp_path)), load_images(ImagesConfig(train_images=4))):
        copy = pickle.loads(pickle.dumps(images.train))
        assert np.array_equal(everything(copy), everything(images.train))
        assert images.train.crops([]).shape == (0, *images.train.crops([0]).shape[1:])
        for index in (-1, len(images.train)):
            with pytest.raises(IndexError):
                images.train.crops([index])


def test_images_are_the_same_read_by_one_thread(tmp_path: Path) -> None:
    write_pictures(tmp_path, 8)
    images = load_images(folder_config(tmp_path)).train
    assert images.threads > 1 and images.one_by_one().threads == 1
    assert np.array_equal(everything(images.one_by_one()), everything(images))


@pytest.mark.parametrize(("width", "height"), [(30_000, 2), (2, 30_000), (4000, 40)])
def test_a_strip_is_cut_before_it_is_enlarged(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    sizes: list[int] = []
    resize = Image.Image.resize

    def note(image: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        sizes.append(size[0] * size[1])
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", note)
    assert centre_crop(strip, 64).shape == train_crop(strip, 64, 96, np.random.default_rng(1)).shape == (64, 64, 3)
    assert max(sizes) == 64 * 64


def test_a_strip_s_square_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    strip = np.asarray(picture(0, 900, 60))
    for cut in (lambda: centre_crop(strip, 32), lambda: train_crop(strip, 32, 48, np.random.default_rng(1))):
        alone = cut().astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(crops, "STRIP", 1000)
            assert np.abs(cut() - alone).max() <= 1

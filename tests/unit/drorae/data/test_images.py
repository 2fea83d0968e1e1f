from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

import drorae.data.folder
from drorae.config import ImagesConfig
from drorae.data.crops import ImageSet, centre_crop, train_crop
from drorae.data.images import load_images
from drorae.data.photos import read_photos, split_photo
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


# The two crops


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


@pytest.mark.parametrize("shape", [(2, 50), (5, 5), (33, 31)])
def test_small_images_are_enlarged(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    for crop in (centre_crop(pixels, 32), train_crop(pixels, 32, 48, np.random.default_rng(0))):
        assert crop.shape == (32, 32, 3) and (crop == 77).all()


# Photographs


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


def test_views_change_training_crops_only() -> None:
    images = load_images(ImagesConfig(train_images=8, val_images=8))
    first, second = everything(images.train), everything(images.train, view=1)
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(everything(images.val), everything(images.val, view=1))


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


# Folders


def test_folder_of_class_folders_is_read_whatever_the_names(tmp_path: Path) -> None:
    names = ["a/one.JPG", "a/b/two.jpeg", "c d/drei ü é 猫.PNG", "four.webp", "a/b/c/five.WebP", "six.jpg"]
    for index, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rsplit(".")[-1].lower()]
        picture(index).save(path, kind)
    (tmp_path / ".hidden.jpg").write_bytes(b"not an image")
    (tmp_path / "a" / "._one.jpg").write_bytes(b"not an image")
    (tmp_path / ".cache").mkdir()
    picture(0).save(tmp_path / ".cache" / "x.png")
    (tmp_path / "labels.txt").write_text("a\n")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load_images(folder_config(tmp_path))
    assert len(images.train) + len(images.val) == len(names)
    assert images.skipped == ()
    assert everything(images.train).shape == (len(images.train), 16, 16, 3)


def as_seen(folder: Path, image: Image.Image, name: str, **options: Any) -> np.ndarray:
    """The evaluation crop of `image` after it went through a folder."""
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    picture(0).save(folder / "train" / "x.png")
    image.save(folder / "val" / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(folder_config(folder)).val.crops([0])[0]


def test_odd_but_usable_modes_become_rgb(tmp_path: Path) -> None:
    colour = picture(3, 16, 16)
    grey = colour.convert("L")
    assert np.array_equal(as_seen(tmp_path / "grey", grey, "a.png"), np.asarray(grey.convert("RGB")))
    bits = colour.convert("1")
    assert np.array_equal(as_seen(tmp_path / "bits", bits, "a.png"), np.asarray(bits.convert("RGB")))
    palette = colour.quantize(64)
    assert np.array_equal(as_seen(tmp_path / "palette", palette, "a.png"), np.asarray(palette.convert("RGB")))
    assert np.array_equal(as_seen(tmp_path / "rgb", colour, "wrong-name.jpg", format="PNG"), np.asarray(colour))


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_is_laid_on_white(tmp_path: Path, name: str) -> None:
    colour = np.asarray(picture(4, 16, 16))
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:8] = 255
    seen = as_seen(tmp_path, Image.fromarray(np.dstack([colour, alpha])), name, lossless=True)
    assert np.array_equal(seen[:8], colour[:8]) and (seen[8:] == 255).all()


def test_transparent_palette_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 16, 8))
    seen = as_seen(tmp_path, image, "a.png", transparency=0)
    assert (seen[:8] == 255).all() and (seen[8:] == [200, 100, 50]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = picture(5, 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise by 90 degrees to view
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    seen = as_seen(tmp_path, stored, "a.jpg", quality=100, subsampling=0, exif=exif)
    assert np.abs(seen.astype(int) - np.asarray(upright)).mean() < 2


def test_phone_jpegs_with_a_second_picture_are_no_animation(tmp_path: Path) -> None:
    image = picture(6, 16, 16)
    second = [picture(7, 16, 16)]
    seen = as_seen(tmp_path, image, "a.jpg", format="MPO", save_all=True, append_images=second, quality=100)
    assert np.abs(seen.astype(int) - np.asarray(image)).mean() < 10
    assert np.abs(seen.astype(int) - np.asarray(second[0])).mean() > 30


def write_bad_files(folder: Path) -> dict[str, str]:
    """One file of every unusable kind; file name -> reason."""
    frames = [picture(seed) for seed in (10, 11, 12)]
    whole = jpeg(picture(13, 200, 150))
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    (folder / "truncated.png").write_bytes(stream.getvalue()[:9000])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "header.jpg").write_bytes(whole[:30])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    picture(14).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(folder / "grey16.png")
    (folder / "colour16.png").write_bytes(png_16bit_colour())
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "gif.png", "GIF", save_all=True, append_images=frames[1:])
    picture(15, 1, 40).save(folder / "narrow.png")
    picture(16, 40, 1).save(folder / "flat.jpg")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "zero.jpg": "zero-byte",
        "text.jpg": "unreadable",
        "header.jpg": "unreadable",
        "gone.jpg": "unreadable",
        "cmyk.jpg": "CMYK",
        "grey16.png": "16-bit",
        "colour16.png": "16-bit",
        "animated.webp": "animated",
        "animated.png": "animated",
        "gif.png": "animated",
        "narrow.png": "one pixel wide",
        "flat.jpg": "one pixel wide",
    }


def png_16bit_colour() -> bytes:
    """A 16-bit RGB PNG, which PIL reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(48)) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bad_files_are_named_counted_and_skipped_with_one_warning(tmp_path: Path) -> None:
    reasons = write_bad_files(tmp_path)
    write_pictures(tmp_path / "good", 290)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = load_images(folder_config(tmp_path))
    assert len(caught) == 1 and caught[0].filename == __file__
    message = str(caught[0].message)
    assert "skipped 14 of 304" in message and "\n" not in message
    for count in ("3 unreadable", "2 truncated", "1 zero-byte", "1 CMYK", "2 16-bit", "3 animated", "2 one pixel wide"):
        assert count in message
    assert dict(entry.rsplit(": ", 1) for entry in images.skipped) == {
        str(tmp_path / name): reason for name, reason in reasons.items()
    }
    assert len(images.train) + len(images.val) == 290
    everything(images.train)
    everything(images.val)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_a_file_that_cannot_be_opened_just_now_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_pictures(tmp_path, 40)

    def refuse(path: str, mode: str) -> Any:
        if Path(path).stem.endswith("7"):
            raise OSError(number, os.strerror(number), str(path))
        return open(path, mode)

    monkeypatch.setattr(drorae.data.folder, "open", refuse, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)):
        load_images(folder_config(tmp_path))


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError("out of memory error when reading image file")])
@pytest.mark.parametrize("where", [(Image, "open"), (ImageFile.ImageFile, "load"), (ImageOps, "exif_transpose")])
def test_an_image_that_memory_does_not_hold_just_now_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: tuple[Any, str]
) -> None:
    write_pictures(tmp_path, 40)
    whole = load_images(folder_config(tmp_path)).train

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(*where, refuse)
    with pytest.raises(type(error), match="memory"):
        load_images(folder_config(tmp_path))
    with pytest.raises(type(error), match="memory"):
        whole.crops([0])


def test_more_than_five_per_cent_bad_is_an_error(tmp_path: Path) -> None:
    write_pictures(tmp_path, 19)
    (tmp_path / "bad.jpg").touch()
    with pytest.warns(UserWarning, match="skipped 1 of 20"):
        load_images(folder_config(tmp_path))
    (tmp_path / "evil\n.png").write_text("no picture")
    message = user_error(folder_config(tmp_path))
    assert "2 of 21" in message and "1 zero-byte" in message and "1 unreadable" in message
    assert "bad.jpg (zero-byte)" in message and "evil\\n.png" in message


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_cut_short_never_passes(tmp_path: Path, kept: float, kind: str, progressive: bool) -> None:
    stream = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    noise.save(stream, kind, progressive=progressive)
    write_pictures(tmp_path, 20)
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[: int(kept * len(stream.getvalue()))])
    with pytest.warns(UserWarning, match="skipped 1 of 21 image files .1 (truncated|unreadable).*cut.png"):
        load_images(folder_config(tmp_path))


def test_a_large_folder_is_checked_by_headers_and_fails_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drorae.data.folder, "FULL_CHECK_FILES", 10)
    write_pictures(tmp_path / "train", 39)
    write_pictures(tmp_path / "val", 2)
    (tmp_path / "train" / "zero.png").touch()
    whole = jpeg(picture(13, 200, 150))
    (tmp_path / "train" / "zz.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="1 zero-byte"):
        images = load_images(folder_config(tmp_path))
    assert len(images.train) == 40
    images.train.crops(range(39))
    with pytest.raises(UserError, match=r"zz\.jpg: cannot be decoded any more .*remove the file") as caught:
        images.train.crops([39])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, 100])
def test_a_copy_of_a_folder_is_the_same_images_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(drorae.data.folder, "FULL_CHECK_FILES", limit)
    monkeypatch.setattr(drorae.data.folder, "SAMPLE_FILES", 2, raising=False)
    monkeypatch.setattr(drorae.data.folder, "HEAD_BYTES", 128, raising=False)
    write_pictures(tmp_path / "train", 5)
    write_pictures(tmp_path / "val", 2)

    def fingerprint(changed: Callable[[Path], object] = lambda train: None) -> str:
        """Of the training images of a copy, changed and with other times."""
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        for index, path in enumerate(sorted((tmp_path / "train").iterdir())):
            (copy / "train").mkdir(parents=True, exist_ok=True)
            target = copy / "train" / path.name
            shutil.copyfile(path, target)
            os.utime(target, (index, index))
        shutil.copytree(tmp_path / "val", copy / "val")
        changed(copy / "train")
        return load_images(folder_config(copy)).train.fingerprint

    def flip(path: Path, at: int) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    whole = load_images(folder_config(tmp_path)).train.fingerprint
    assert fingerprint() == whole
    assert fingerprint(lambda train: (train / "000.png").rename(train / "0.png")) != whole
    assert fingerprint(lambda train: (train / "003.png").write_bytes((train / "003.png").read_bytes() + b"x")) != whole
    # The text of a PNG's end is read by no decoder.
    assert sum(fingerprint(lambda train, i=i: flip(train / f"{i:03}.png", -1)) != whole for i in range(5)) == (
        2 if limit == 0 else 5
    )
    assert fingerprint(lambda train: (train / "000.png").write_bytes((train / "001.png").read_bytes())) != whole


def test_of_a_long_file_in_the_sample_both_ends_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drorae.data.folder, "SAMPLE_BYTES", 8)
    monkeypatch.setattr(drorae.data.folder, "HEAD_BYTES", 2)
    for content, sampled, part in (
        (b"0123456789ab", True, b"012389ab"), (b"01234567", True, b"01234567"), (b"012", True, b"012"),
        (b"0123456789ab", False, b"01"),
    ):  # fmt: skip
        assert drorae.data.folder._part(io.BytesIO(content), len(content), sampled) == part


def test_train_and_val_folders_are_the_split(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train" / "cats", 3)
    write_pictures(tmp_path / "val", 2)
    images = load_images(folder_config(tmp_path))
    assert (len(images.train), len(images.val)) == (3, 2)
    apart = load_images(folder_config(tmp_path / "train", val_path=str(tmp_path / "val")))
    assert apart.train.fingerprint == images.train.fingerprint and apart.val.fingerprint == images.val.fingerprint
    assert "leave val_path empty" in user_error(folder_config(tmp_path, val_path=str(tmp_path / "val")))
    assert "share images" in user_error(folder_config(tmp_path / "train", val_path=str(tmp_path / "train" / "cats")))


def test_split_by_names_is_disjoint_complete_and_does_not_move(tmp_path: Path) -> None:
    write_pictures(tmp_path / "here", 40)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (load_images(folder_config(tmp_path / name)) for name in ("here", "there"))
    assert (len(here.train), len(here.val)) == (30, 10)
    assert (here.train.fingerprint, here.val.fingerprint) == (there.train.fingerprint, there.val.fingerprint)
    assert np.array_equal(everything(here.train), everything(there.train))
    seeded = load_images(folder_config(tmp_path / "here", seed=5))
    assert np.array_equal(everything(seeded.val), everything(here.val))
    whole = {centre_crop(picture(index), 16).tobytes() for index in range(40)}
    val = {crop.tobytes() for crop in everything(here.val)}
    assert len(val) == 10 and val < whole
    train = load_images(folder_config(tmp_path / "here", resize=0)).train
    picture(99).save(tmp_path / "here" / "000.png")
    changed = load_images(folder_config(tmp_path / "here"))
    assert (changed.train.fingerprint, changed.val.fingerprint) != (train.fingerprint, here.val.fingerprint)


def test_subsets_are_seeded_nested_and_keep_their_crops(tmp_path: Path) -> None:
    write_pictures(tmp_path, 30)
    full, eight, four, other = (
        load_images(folder_config(tmp_path, train_images=limit, seed=seed))
        for limit, seed in ((0, 0), (8, 0), (4, 0), (8, 1))
    )
    crops = [{crop.tobytes() for crop in everything(images.train)} for images in (full, eight, four, other)]
    assert crops[2] < crops[1] < crops[0] and len(crops[1]) == 8
    assert eight.train.fingerprint != other.train.fingerprint
    assert eight.val.fingerprint == full.val.fingerprint
    assert len(load_images(folder_config(tmp_path, train_images=1000)).train) == len(full.train)


def test_fingerprints_follow_the_crop_settings(tmp_path: Path) -> None:
    write_pictures(tmp_path, 8)
    plain = load_images(folder_config(tmp_path))
    for change in ({"resize": 24}, {"seed": 1}, {"views": 2}):
        changed = load_images(folder_config(tmp_path, **change))
        assert changed.train.fingerprint != plain.train.fingerprint
        assert changed.val.fingerprint == plain.val.fingerprint
    assert load_images(folder_config(tmp_path, resize=16)).train.fingerprint == plain.train.fingerprint
    assert load_images(folder_config(tmp_path, size=8)).val.fingerprint != plain.val.fingerprint


def test_empty_and_missing_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    message = user_error(folder_config(tmp_path))
    assert str(tmp_path) in message and ".jpg, .jpeg, .png, .webp" in message
    assert "does not exist" in user_error(folder_config(tmp_path / "none"))
    assert "is a file" in user_error(folder_config(tmp_path / "notes.txt"))
    assert "images.path" in user_error(ImagesConfig(source="folder"))
    write_pictures(tmp_path / "one", 1)
    assert "1 usable image" in user_error(folder_config(tmp_path / "one"))
    assert "images.val_path" in user_error(folder_config(tmp_path / "one", val_path=str(tmp_path / "none")))
    write_pictures(tmp_path / "both" / "train", 30)
    (tmp_path / "both" / "val").mkdir()
    (tmp_path / "both" / "val" / "x.png").touch()
    with pytest.warns(UserWarning, match="zero-byte"):
        assert "no usable image" in user_error(folder_config(tmp_path / "both"))


# npz


def write_npz(path: Path, **arrays: Any) -> ImagesConfig:
    np.savez(path, **arrays)
    return ImagesConfig(source="npz", path=str(path))


def test_npz_images_of_the_right_size_come_through_unchanged(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    val = generator.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    config = write_npz(tmp_path / "a.npz", train=train, val=val, train_labels=np.arange(20))
    images = load_images(config)
    assert np.array_equal(everything(images.train, view=3), train)
    assert np.array_equal(everything(images.val), val)
    some = load_images(replace(config, train_images=5))
    assert {crop.tobytes() for crop in everything(some.train)} < {image.tobytes() for image in train}
    assert len(some.train) == 5 and some.train.fingerprint != images.train.fingerprint
    assert load_images(replace(config, size=16, resize=24)).train.crops([0]).shape == (1, 16, 16, 3)


def test_npz_of_another_kind_is_refused(tmp_path: Path) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    cases: dict[str, dict[str, Any]] = {
        "holds train, test, no val": {"train": good, "test": good},
        "float32 of shape [2, 8, 8, 3]": {"train": good, "val": good.astype(np.float32)},
        "uint8 of shape [2, 3, 8, 8]": {"train": good.transpose(0, 3, 1, 2), "val": good},
        "uint8 of shape [0, 8, 8, 3]": {"train": good[:0], "val": good},
        "Python objects": {"train": np.array([None, 1]), "val": good},
    }
    for expected, arrays in cases.items():
        message = user_error(write_npz(tmp_path / "a.npz", **arrays))
        assert expected in message and "uint8 arrays named train and val" in message
    np.save(tmp_path / "b.npy", good)
    assert "single array" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "b.npy")))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "c.npz")))
    (tmp_path / "d.npz").touch()
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "d.npz")))
    assert "no file" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "e.npz")))
    assert "images.path" in user_error(ImagesConfig(source="npz"))


# Common to all sources


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"resize": 31}, {"train_images": -1}, {"val_images": -1}, {"views": -1}, {"seed": -1}]
    + [{"val_fraction": share} for share in (0.0, 1.0)],
)
def test_settings_out_of_range_are_named(change: dict[str, Any]) -> None:
    assert f"images.{next(iter(change))}:" in user_error(replace(ImagesConfig(), **change))


def test_image_sets_travel_to_other_processes_and_know_their_bounds(tmp_path: Path) -> None:
    write_pictures(tmp_path, 8)
    for images in (load_images(folder_config(tmp_path)), load_images(ImagesConfig(train_images=4))):
        copy = pickle.loads(pickle.dumps(images.train))
        assert np.array_equal(everything(copy), everything(images.train))
        assert images.train.crops([]).shape == (0, *images.train.crops([0]).shape[1:])
        for index in (-1, len(images.train)):
            with pytest.raises(IndexError):
                images.train.crops([index])

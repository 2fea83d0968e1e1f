"""Folders of images: every usable file is read, every other one named, and the split stays where it is."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import everything, folder_config, jpeg, picture, user_error, write_pictures
from PIL import ExifTags, Image, ImageFile, ImageOps

import drorae.data.collection
import drorae.data.encoded
from drorae.config import ImagesConfig
from drorae.data.crops import centre_crop
from drorae.data.images import load_images
from drorae.errors import OF_IMAGES, Notice, UserError


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
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "gif.png", "GIF", save_all=True, append_images=frames[1:])
    picture(15, 1, 40).save(folder / "narrow.png")
    picture(17, 2, 80).save(folder / "strip.png")
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((30, 30), np.float32)).save(folder / "float.tif")
    picture(16, 40, 1).save(folder / "flat.jpg")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "zero.jpg": "zero-byte",
        "text.jpg": "unreadable",
        "header.jpg": "unreadable",
        "gone.jpg": "unreadable",
        "animated.webp": "animated",
        "animated.png": "animated",
        "gif.png": "animated",
        "narrow.png": "one pixel wide",
        "flat.jpg": "one pixel wide",
        "strip.png": "over 32 times as long as wide",
        "pages.tif": "of several pages",
        "float.tif": "of 32 bits and unknown range",
    }


def png_16bit_colour(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG of values [H, W, 3], which PIL reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bad_files_are_named_counted_and_skipped_with_one_warning(tmp_path: Path) -> None:
    reasons = write_bad_files(tmp_path)
    write_pictures(tmp_path / "good", 290)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = load_images(folder_config(tmp_path))
    assert len(caught) == 1 and caught[0].filename == __file__
    message = str(caught[0].message)
    assert message.startswith(OF_IMAGES) and caught[0].category is Notice, "a sweep says it, once"
    assert "skipped 14 of 304" in message and "\n" not in message
    for count in ("3 unreadable", "2 truncated", "1 zero-byte", "3 animated", "2 one pixel wide", "1 of several pages"):
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

    monkeypatch.setattr(drorae.data.collection, "open", refuse, raising=False)
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
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 10)
    write_pictures(tmp_path / "train", 39)
    write_pictures(tmp_path / "val", 2)
    (tmp_path / "train" / "zero.png").touch()
    whole = jpeg(picture(13, 200, 150))
    (tmp_path / "train" / "zz.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="1 zero-byte"):
        images = load_images(folder_config(tmp_path))
    assert len(images.train) == 40
    images.train.crops(range(39))
    with pytest.raises(UserError, match=r"zz\.jpg: cannot be decoded any more .*replace the file") as caught:
        images.train.crops([39])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0, 100])
def test_a_copy_of_a_folder_is_the_same_images_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", limit)
    monkeypatch.setattr(drorae.data.collection, "SAMPLE_FILES", 2, raising=False)
    monkeypatch.setattr(drorae.data.encoded, "HEAD_BYTES", 128, raising=False)
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


def test_empty_and_missing_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    message = user_error(folder_config(tmp_path))
    assert str(tmp_path) in message and "JPEG, PNG, WEBP" in message and "found 1 .txt" in message
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


def test_cmyk_and_16_bit_images_are_converted_with_one_notice(tmp_path: Path) -> None:
    write_pictures(tmp_path / "val", 2)
    wide = np.random.default_rng(0).integers(0, 2**16, (16, 16, 3), dtype=np.uint16)
    train = tmp_path / "train"
    train.mkdir()
    picture(14).convert("CMYK").save(train / "a.jpg", quality=100)
    Image.fromarray(wide[..., 0]).save(train / "b.png")
    Image.fromarray(wide[..., 0]).save(train / "c.tif")
    (train / "d.png").write_bytes(png_16bit_colour(wide))
    with pytest.warns(Notice, match="converted to 8-bit RGB: 3 16-bit, 1 CMYK images, such as .*a.jpg") as caught:
        images = load_images(folder_config(tmp_path))
    assert len(caught) == 1 and images.notices[-1] == str(caught[0].message)
    seen = [images.train.crops([index])[0] for index in range(4)]
    upper = (wide >> 8).astype(np.uint8)
    for grey in seen[1:3]:
        assert np.array_equal(grey, np.repeat(upper[..., :1], 3, axis=2))
    assert np.array_equal(seen[3], upper)
    with Image.open(train / "a.jpg") as cmyk:
        whole = cmyk.convert("RGB")
    assert seen[0].astype(int).mean() == pytest.approx(np.asarray(whole).mean(), abs=40)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.TIFF", "a.gif", "a.ppm", "a.tga", "a.jp2", "a.jfif"])
def test_whatever_pillow_reads_safely_is_read(tmp_path: Path, name: str) -> None:
    colour = picture(3, 16, 16)
    kind = {"jfif": "JPEG"}.get(name[2:])
    seen = as_seen(tmp_path, colour, name, **({"format": kind} if kind else {}))
    assert np.abs(seen.astype(int) - np.asarray(colour)).mean() < 12


def test_files_that_are_not_looked_at_are_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 10)
    for index in range(40):
        (tmp_path / f"{index}.heic").touch()
    for index in range(20):
        (tmp_path / f"{index}.cr2").touch()
    for folder in ("@eaDir", "__MACOSX", "Thumbnails", ".cache"):
        write_pictures(tmp_path / folder, 3)
    with pytest.warns(Notice, match="60 of 70 files were not looked at .* 40 .heic, 20 .cr2") as caught:
        images = load_images(folder_config(tmp_path))
    assert len(caught) == 1 and images.notices == (str(caught[0].message),)
    assert len(images.train) + len(images.val) == 10


def test_the_pixel_limit_is_named_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    write_pictures(tmp_path, 24)
    picture(99, 50, 60).save(tmp_path / "large.png")
    config = folder_config(tmp_path, max_pixels=2000)
    with pytest.warns(UserWarning, match="large.png .over 2000 pixels, which images.max_pixels raises"):
        load_images(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images(replace(config, max_pixels=3000)).skipped == ()
    assert Image.MAX_IMAGE_PIXELS == 1500


SPLITS = [
    ("train", "val"),
    ("Train", "Validation"),
    ("TRAIN", "TEST"),
    ("train2017", "val2017"),
    ("img_train", "img_dev"),
]


@pytest.mark.parametrize(("train", "val"), SPLITS)
def test_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, val: str) -> None:
    write_pictures(tmp_path / train / "cats", 3)
    picture(50).save(tmp_path / train / "cats" / "x.png")
    (tmp_path / val).mkdir()
    for index in range(60, 62):
        picture(index).save(tmp_path / val / f"{index}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        images = load_images(folder_config(tmp_path))
    assert (len(images.train), len(images.val)) == (4, 2)
    assert images.notices[0].endswith(f"trained on {train}, measured on {val}")


def test_a_test_set_beside_validation_images_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    for index, name in enumerate(("train", "val", "test", "unlabeled")):
        (tmp_path / name).mkdir()
        for number in range(2):
            picture(10 * index + number).save(tmp_path / name / f"{number}.png")
    with pytest.warns(Notice, match="trained on train, measured on val; left out: test, unlabeled"):
        images = load_images(folder_config(tmp_path))
    assert len(images.train) == len(images.val) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("train", "query"),
        ("test", "a"),
        ("val",),
        ("train", "training", "val"),
        ("fold1", "fold2"),
        ("trainA", "trainB"),
    ],
)
def test_a_split_that_is_not_clear_is_refused_and_can_be_pooled(tmp_path: Path, names: tuple[str, ...]) -> None:
    for index, name in enumerate(names):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture(10 * index + number).save(tmp_path / name / f"{number}.png")
    message = user_error(folder_config(tmp_path))
    assert "of which the split is not clear" in message and "images.split=pooled" in message
    images = load_images(folder_config(tmp_path, split="pooled"))
    assert len(images.train) + len(images.val) == 3 * len(names)


def test_a_split_deeper_down_is_not_mixed(tmp_path: Path) -> None:
    for name in ("images/train", "images/val"):
        write_pictures(tmp_path / "coco" / name, 2)
    message = user_error(folder_config(tmp_path / "coco"))
    assert "coco/images holds a split of its own (train and val)" in message
    write_pictures(tmp_path / "other", 2)
    for first, second in (("coco/images", "other"), ("other", "coco/images")):
        config = folder_config(tmp_path / first, val_path=str(tmp_path / second))
        assert "has train and val folders of its own" in user_error(config)


def test_images_on_both_sides_are_reported_with_examples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(12):
        photo = picture(index, 160, 120)
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "val").mkdir(exist_ok=True)
        photo.save(tmp_path / "train" / f"{index}.png")
        if index < 2:
            shutil.copy(tmp_path / "train" / f"{index}.png", tmp_path / "val" / f"copy{index}.png")
        elif index < 5:
            photo.resize((120, 90)).save(tmp_path / "val" / f"smaller{index}.jpg", quality=70)
    Image.fromarray(rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)).save(tmp_path / "val" / "own.png")
    with pytest.warns(Notice) as caught:
        images = load_images(folder_config(tmp_path))
    same, near = (str(entry.message) for entry in caught)
    assert "2 of 6 validation images are also training images, byte for byte: copy0.png and 0.png, copy1" in same
    assert "3 of 6 validation images look like a training image: smaller2.jpg and 2.png" in near
    assert images.notices[-2:] == (same, near)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", [0, 20])
def test_a_draft_is_decoded_smaller_and_cut_where_the_whole_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, resize: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for number in range(8):
        # No multiple of a fraction, so that the reduced picture has a little another shape.
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(picture(number, 331, 277), exif=exif))
    whole = load_images(folder_config(tmp_path, resize=resize))
    draft = load_images(folder_config(tmp_path, resize=resize, draft=True))
    expected = everything(whole.train).astype(int)
    centred = everything(whole.train.centred())
    decoded: list[int] = []
    transpose = ImageOps.exif_transpose

    def note(image: Image.Image, *, in_place: bool) -> None:
        transpose(image, in_place=in_place)
        decoded.append(min(image.size))

    monkeypatch.setattr(ImageOps, "exif_transpose", note)
    found = everything(draft.train).astype(int)
    # Twice the side wanted is 32 or 40 of 277: an eighth is 35.
    assert set(decoded) == ({70} if resize else {35})
    # A square that is one pixel off is 10 away.
    assert np.abs(found - expected).mean() < 1 and np.abs(found - expected).max() < 12
    assert not np.array_equal(found, expected)
    decoded.clear()
    assert np.array_equal(everything(draft.val), everything(whole.val))
    assert np.array_equal(everything(draft.train.centred()), centred)
    assert set(decoded) == {277}


def test_a_draft_changes_jpegs_alone_and_the_fingerprint_of_training_crops(tmp_path: Path) -> None:
    for number in range(8):
        picture(number, 331, 277).save(tmp_path / f"{number}.png")
    whole, draft = (load_images(folder_config(tmp_path, **changes)) for changes in ({}, {"draft": True}))
    assert np.array_equal(everything(draft.train), everything(whole.train))
    assert draft.train.fingerprint != whole.train.fingerprint
    assert draft.val.fingerprint == whole.val.fingerprint


def test_resampling_by_torch_changes_training_crops_and_their_fingerprint_alone(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(picture(number, 331, 277)))
    ways: tuple[dict[str, object], ...] = ({}, {"resampling": "torch"}, {"resampling": "torch", "draft": True})
    pillow, torch, draft = (load_images(folder_config(tmp_path, **way)) for way in ways)
    expected, found = (everything(images.train).astype(int) for images in (pillow, torch))
    assert 0 < np.abs(found - expected).max() <= 2
    # Reduced to a shape that ends within a pixel, or not.
    assert np.abs(everything(draft.train) - expected).mean() < 1
    assert len({images.train.fingerprint for images in (pillow, torch, draft)}) == 3
    for other in (torch, draft):
        assert np.array_equal(everything(other.val), everything(pillow.val))
        assert other.val.fingerprint == pillow.val.fingerprint

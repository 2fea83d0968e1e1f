"""Encoded images are the same images whatever holds them."""

from __future__ import annotations

import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from held import FORMS, write_held
from image_files import everything, folder_config, jpeg, picture, user_error

import drorae.data.collection
from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.errors import Notice, UserError
from drorae.storage.cache import Cache

SHARDED = [source for source in FORMS if source != "folder"]
SPLITS = {
    "train": {f"{index:03}.jpg": jpeg(picture(index, 48, 40)) for index in range(24)},
    "validation": {f"{index:03}.jpg": jpeg(picture(index, 40, 48)) for index in range(50, 56)},
}


def config_of(source: str, path: Path, **changes: object) -> ImagesConfig:
    return replace(folder_config(path), source=source, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", SHARDED)
@pytest.mark.parametrize("many", [False, True])
def test_what_holds_images_changes_neither_crops_nor_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, many: bool
) -> None:
    if many:
        monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 10)
        monkeypatch.setattr(drorae.data.collection, "SAMPLE_FILES", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_files = load_images(config_of("folder", write_held(tmp_path / "files", "folder", SPLITS)))
        config = config_of(source, write_held(tmp_path / "held", source, SPLITS))
        images = load_images(config)
    for held, files in ((images.train, as_files.train), (images.val, as_files.val)):
        assert held.fingerprint == files.fingerprint
        assert np.array_equal(everything(held, 1), everything(files, 1))
        assert np.array_equal(everything(pickle.loads(pickle.dumps(held))), everything(files))
    said = [[notice.rpartition(": ")[2] for notice in found.notices] for found in (images, as_files)]
    assert said[0] == said[1] == ["trained on train, measured on validation"]
    some = load_images(replace(config, train_images=5)).train
    assert some.fingerprint == load_images(config_of("folder", tmp_path / "files", train_images=5)).train.fingerprint
    (tmp_path / "held").rename(tmp_path / "moved")
    moved = load_images(config_of(source, tmp_path / "moved"))
    assert moved.train.fingerprint == images.train.fingerprint


@pytest.mark.parametrize("source", SHARDED)
def test_other_content_is_another_fingerprint(tmp_path: Path, source: str) -> None:
    changed = dict(SPLITS["train"]) | {"005.jpg": jpeg(picture(99, 48, 40))}
    first = load_images(config_of(source, write_held(tmp_path / "a", source, SPLITS)))
    other = load_images(config_of(source, write_held(tmp_path / "b", source, SPLITS | {"train": changed})))
    assert first.train.fingerprint != other.train.fingerprint and first.val.fingerprint == other.val.fingerprint
    crops = first.train.crops([5]), other.train.crops([5])
    # A process that has them open sees that its files are others now.
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    again = load_images(config_of(source, tmp_path / "a"))
    assert np.array_equal(again.train.crops([5]), crops[1]) and not np.array_equal(*crops)
    assert again.train.fingerprint == other.train.fingerprint


@pytest.mark.parametrize("source", SHARDED)
def test_one_split_is_divided_as_a_folder_is(tmp_path: Path, source: str) -> None:
    only = {"train": SPLITS["train"]}
    held = load_images(config_of(source, write_held(tmp_path / "held", source, only)))
    files = load_images(config_of("folder", write_held(tmp_path / "files", "folder", only) / "train"))
    assert (len(held.train), len(held.val)) == (18, 6)
    assert (held.train.fingerprint, held.val.fingerprint) == (files.train.fingerprint, files.val.fingerprint)
    pooled = load_images(config_of(source, write_held(tmp_path / "all", source, SPLITS), split="pooled"))
    assert len(pooled.train) + len(pooled.val) == 30


@pytest.mark.parametrize("source", SHARDED)
def test_what_a_shard_holds_that_is_no_image_is_skipped_and_named(tmp_path: Path, source: str) -> None:
    whole = SPLITS["train"]["000.jpg"]
    images = dict(SPLITS["train"]) | {f"{index}.png": jpeg(picture(index)) for index in range(100, 120)}
    images |= {"cut.jpg": whole[: len(whole) // 2], "none.jpg": b""}
    path = write_held(tmp_path / "held", source, {"train": images, "val": SPLITS["validation"]})
    with pytest.warns(Notice, match="skipped 2 of 52 image files .1 truncated, 1 zero-byte.: .*/cut.jpg") as caught:
        found = load_images(config_of(source, path))
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert [entry.rpartition("/")[2] for entry in found.skipped] == ["cut.jpg: truncated", "none.jpg: zero-byte"]
    assert len(found.train) == 44
    bad = write_held(tmp_path / "bad", source, {"train": {"a.jpg": whole, "b.jpg": b"no image"}})
    assert "1 of 2 files are not usable (1 unreadable)" in user_error(config_of(source, bad))


@pytest.mark.parametrize("source", SHARDED)
def test_an_image_on_both_sides_is_reported(tmp_path: Path, source: str) -> None:
    splits = {"train": SPLITS["train"], "val": {"copy.jpg": SPLITS["train"]["003.jpg"]} | dict(SPLITS["validation"])}
    with pytest.warns(Notice, match="1 of 7 validation images are also training images.*copy.jpg and 003.jpg"):
        load_images(config_of(source, write_held(tmp_path / "held", source, splits)))


@pytest.mark.parametrize("source", SHARDED)
def test_a_damaged_shard_and_a_missing_one_are_named(tmp_path: Path, source: str) -> None:
    path = write_held(tmp_path / "held", source, SPLITS)
    assert f"images.source={source} needs images.path" in user_error(ImagesConfig(source=source))  # type: ignore[arg-type]
    shard = sorted(path.rglob(f"*{FORMS[source]}"))[0]
    shard.write_bytes(b"no shard at all" * 100)
    message = user_error(config_of(source, path))
    assert str(shard) in message and "replace it" in message
    assert str(tmp_path / "none") in user_error(config_of(source, tmp_path / "none"))


@pytest.mark.parametrize("source", list(FORMS))
def test_a_second_start_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 10)
    monkeypatch.setattr(drorae.data.collection, "SAMPLE_FILES", 3)
    config = config_of(source, write_held(tmp_path / "held", source, SPLITS))
    cache = Cache(tmp_path / "cache")
    first = load_images(config, cache)
    crops = everything(first.train)

    def refuse(*arguments: object) -> None:
        raise AssertionError("an image was examined, or a shard listed, again")

    with monkeypatch.context() as patch:
        patch.setattr(drorae.data.collection, "examine", refuse)
        for module in ("parquet", "webdataset", "arrow"):
            patch.setattr(f"drorae.data.{module}._contents", refuse)
        second = load_images(config, cache)
    assert (first.train.fingerprint, first.val.fingerprint) == (second.train.fingerprint, second.val.fingerprint)
    assert np.array_equal(crops, everything(second.train))
    assert load_images(config).train.fingerprint == first.train.fingerprint
    with pytest.raises(UserError, match="holds no usable image|no .* files|no images|no state.json|not exist"):
        shutil.rmtree(tmp_path / "held")
        load_images(config, cache)


@pytest.mark.parametrize("source", SHARDED)
def test_a_shard_that_goes_while_it_is_read_is_named(tmp_path: Path, source: str) -> None:
    images = load_images(config_of(source, write_held(tmp_path / "held", source, SPLITS)))
    (tmp_path / "held").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"held/.*\d: cannot be decoded any more .*replace the file") as caught:
        images.train.crops([0])
    assert "\n" not in str(caught.value)

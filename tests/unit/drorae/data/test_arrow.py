"""Folders that the library `datasets` saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from held import table, write_held, write_saved
from image_files import jpeg, picture, user_error

from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.errors import Notice

PICTURES = {f"{index:02}.jpg": jpeg(picture(index)) for index in range(20)}


def config(path: Path, **changes: object) -> ImagesConfig:
    return ImagesConfig(source="datasets", path=str(path), size=16, **changes)  # type: ignore[arg-type]


def test_a_data_set_without_splits_is_divided_or_has_another_beside_it(tmp_path: Path) -> None:
    write_saved(tmp_path / "a", [table(PICTURES)])
    write_saved(tmp_path / "b", [table({"x.jpg": jpeg(picture(50)), "y.jpg": jpeg(picture(51))})])
    images = load_images(config(tmp_path / "a"))
    assert (len(images.train), len(images.val)) == (15, 5)
    images = load_images(config(tmp_path / "a", val_path=str(tmp_path / "b")))
    assert (len(images.train), len(images.val)) == (20, 2)


def test_splits_of_a_dictionary_are_used_as_folders_are(tmp_path: Path) -> None:
    halves = dict(list(PICTURES.items())[:10]), dict(list(PICTURES.items())[10:])
    path = write_held(tmp_path / "held", "datasets", {"train": halves[0], "test": halves[1]})
    with pytest.warns(Notice, match="trained on train, measured on test"):
        images = load_images(config(path))
    assert (len(images.train), len(images.val)) == (10, 10)
    message = user_error(config(path, val_path=str(path / "test")))
    assert "images.path" in message and str(path / "train") in message


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert "has no state.json; name a folder that save_to_disk" in user_error(config(tmp_path))
    (tmp_path / "state.json").write_text("{")
    assert "state.json is damaged; save the data set again" in user_error(config(tmp_path))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    assert "gone.arrow cannot be read (" in user_error(config(tmp_path))

"""Parquet files of encoded images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from held import table
from image_files import jpeg, picture, user_error

import drorae.data.parquet
from drorae.config import ImagesConfig
from drorae.data.images import load_images

PICTURES = {f"{index:02}.jpg": jpeg(picture(index)) for index in range(20)}


def config(path: Path, **changes: object) -> ImagesConfig:
    return ImagesConfig(source="parquet", path=str(path), size=16, **changes)  # type: ignore[arg-type]


def test_one_file_with_a_plain_column_is_divided(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"png": list(PICTURES.values()), "mask": list(PICTURES.values())}), path)
    images = load_images(config(path))
    assert (len(images.train), len(images.val)) == (15, 5)
    assert "set images.keys to the name" not in str(images.notices)
    assert load_images(config(path, keys=("mask",))).train.fingerprint == images.train.fingerprint
    assert "images.keys: a,b are several" in user_error(config(path, keys=("a", "b")))


def test_row_groups_are_read_when_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, names in (("train", list(PICTURES)[:15]), ("test", list(PICTURES)[15:])):
        held = table({name: PICTURES[name] for name in names})
        pq.write_table(held, tmp_path / f"{split}-00000-of-00001.parquet", row_group_size=3)
    images = load_images(config(tmp_path))
    crops = images.train.crops(range(15))
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, *arguments: object, **options: object) -> pa.Table:
        read.append(group)
        return original(self, group, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    drorae.data.parquet._GROUPS._clear()
    assert np.array_equal(images.train.crops([4, 3, 5, 14]), crops[[4, 3, 5, 14]])
    assert sorted(read) == [1, 4]


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(PICTURES), path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    message = user_error(config(path))
    assert str(path) in message

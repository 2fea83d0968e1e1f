"""Columns of encoded images, and what a process keeps."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
from held import HUB_TYPE

from drorae.data.columns import Kept, content, image_column, rows_found
from drorae.data.index import File
from drorae.errors import UserError

TEXT = pa.string()


@pytest.mark.parametrize(
    ("columns", "keys", "found"),
    [
        ({"label": pa.int64(), "photo": HUB_TYPE, "mask": pa.binary()}, (), "photo"),
        ({"x": pa.large_binary(), "text": TEXT}, (), "x"),
        ({"mask": HUB_TYPE, "image": HUB_TYPE}, (), "image"),
        ({"mask": HUB_TYPE, "image": HUB_TYPE}, ("mask",), "mask"),
    ],
)
def test_the_column_of_images_is_found(columns: dict[str, pa.DataType], keys: tuple[str, ...], found: str) -> None:
    assert image_column(pa.schema(columns), keys, "a.parquet").name == found


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({"label": pa.int64(), "url": TEXT}, ()),
        ({"a": HUB_TYPE, "b": HUB_TYPE}, ()),
        ({"image": HUB_TYPE, "text": TEXT}, ("text",)),
        ({"image": HUB_TYPE}, ("photo",)),
        ({"image": pa.struct({"path": TEXT})}, ()),
    ],
)
def test_a_column_that_is_not_clear_is_to_be_named(columns: dict[str, pa.DataType], keys: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"a.parquet has the columns \w+ \(.*; set images.keys to the name of one"):
        image_column(pa.schema(columns), keys, "a.parquet")


def test_rows_have_the_names_of_their_paths_where_these_tell_them_apart() -> None:
    file = File("data/a.parquet", "/x/data/a.parquet")
    assert [found.name for found in rows_found(file, ["1.jpg", "2.jpg"], 2)] == ["1.jpg", "2.jpg"]
    for names in ([], ["1.jpg", None], ["1.jpg", "1.jpg"]):
        assert [found.name for found in rows_found(file, names, 2)] == ["data/a.parquet/0", "data/a.parquet/1"]


def test_empty_rows_are_no_bytes() -> None:
    rows = [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}, None]
    structs, plain = (pa.chunked_array([pa.array(values, kind)]) for values, kind in (
        (rows, HUB_TYPE), ([b"x", None, b""], pa.binary())
    ))  # fmt: skip
    assert [content(structs, row) for row in range(3)] == [content(plain, row) for row in range(3)] == [b"x", b"", b""]


def test_the_last_few_are_kept_and_a_fork_begins_anew() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    kept: Kept[int] = Kept(2)
    for number in (1, 2, 1, 3, 1, 2):
        assert kept.get(number, lambda number=number: make(number)) == number  # type: ignore[misc]
    assert made == [1, 2, 3, 2]
    with kept._lock:
        child = os.fork()
        if not child:
            # The lock that a thread held is another in the child.
            os._exit(kept.get(1, lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

"""Parquet files with a column of encoded images, the layout of hub data sets, read one row group at a time."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from drorae.config import ImagesConfig
from drorae.data.collection import Holder, collect
from drorae.data.columns import Column, Kept, annotated, content, image_column, rows_found, said_columns, stamp
from drorae.data.crops import Images
from drorae.data.encoded import will_pass
from drorae.data.index import File, Found, Place
from drorae.data.shards import shard_sides
from drorae.errors import UserError, one_line, printable
from drorae.storage.cache import Cache


class _Opened(NamedTuple):
    """A file, its column of images, and where its row groups end."""

    file: pq.ParquetFile
    column: Column
    ends: list[int]


# Footers are small. Row groups of images, as the hub cuts them, are of some 10 to 100 MB.
_OPENED: Kept[_Opened] = Kept(64)
_GROUPS: Kept[pa.ChunkedArray] = Kept(4)


def load_parquet(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """Opens the images in parquet files (`drorae.data.collection.collect`).

    Raises:
        UserError: no such files, a damaged one, no column of images, too few images, or too many of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    sides, notices = shard_sides(config, ".parquet")
    holder = Holder(partial(_contents, config.keys), partial(_stream, config.keys))
    return collect(config, sides, holder, notices, cache)


def _open(keys: Sequence[str], path: str) -> _Opened:
    def make() -> _Opened:
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"images.path: {printable(path)} is not a readable parquet file ({one_line(error)}); replace it"
            ) from None
        groups = (file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups))
        return _Opened(file, image_column(file.schema_arrow, keys, path), list(accumulate(groups)))

    return _OPENED.get((*stamp(path), *keys), make)


def _contents(keys: Sequence[str], file: File) -> list[Found]:
    opened = _open(keys, file.path)
    schema = opened.file.schema_arrow
    names: list[str | None] = []
    if opened.column.has_path:
        # That field alone is read.
        table = _read(opened, file.path, [f"{opened.column.name}.path"])
        names = [row and row["path"] for row in table.column(0).to_pylist()]
    images = rows_found(file, names, opened.ends[-1] if opened.ends else 0)
    return annotated(images, _read(opened, file.path, said_columns(schema)), schema)


def _read(opened: _Opened, path: str, columns: list[str]) -> pa.Table:
    try:
        return opened.file.read(columns, use_threads=False)
    except pa.ArrowInvalid as error:
        raise UserError(f"images.path: {printable(path)} is damaged ({one_line(error)}); replace it") from None


def _stream(keys: Sequence[str], place: Place) -> IO[bytes]:
    opened = _open(keys, place.path)
    group = bisect.bisect_right(opened.ends, place.at)
    first = opened.ends[group - 1] if group else 0
    name = f"{opened.column.name}.bytes" if opened.column.is_struct else opened.column.name

    def make() -> pa.ChunkedArray:
        try:
            return opened.file.read_row_group(group, [name], use_threads=False).column(0)
        except (pa.ArrowInvalid, OSError) as error:
            if will_pass(error):
                raise
            raise UserError(
                f"images.path: {printable(place.path)}: row group {group} is damaged ({one_line(error)}); replace it"
            ) from None

    return io.BytesIO(content(_GROUPS.get((*stamp(place.path), name, group), make), place.at - first))

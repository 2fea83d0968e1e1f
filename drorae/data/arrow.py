"""Data sets that the Hugging Face library `datasets` saved to disk: arrow files, mapped into memory."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from drorae.config import ImagesConfig
from drorae.data.collection import Holder, Side, collect
from drorae.data.columns import Kept, annotated, content, image_column, rows_found, said_columns, stamp
from drorae.data.crops import Images
from drorae.data.index import File, Found, Place, stamped
from drorae.data.splits import sides_by_name
from drorae.errors import UserError, one_line, printable
from drorae.storage.cache import Cache
from drorae.storage.remote import expanded

# Maps, of which the system keeps in memory what there is room for.
_OPENED: Kept[pa.Table] = Kept(256)
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def load_arrow(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """Opens the images of a folder that `save_to_disk` wrote (`drorae.data.collection.collect`).

    Raises:
        UserError: no such folder, a damaged file, no column of images, too few images, or too many of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    sides, notices = _sides(config)
    holder = Holder(partial(_contents, config.keys), partial(_stream, config.keys))
    return collect(config, sides, holder, notices, cache)


def _sides(config: ImagesConfig) -> tuple[list[Side], list[str]]:
    """The files of each side, and what is to be known about them."""
    root = expanded(config.path)
    if config.val_path or not (root / _SPLITS).is_file():
        fields = [(name, path) for name, path in (("path", config.path), ("val_path", config.val_path)) if path]
        return [Side(path, _files(name, expanded(path), "")) for name, path in fields], []
    names = [str(name) for name in _json(root / _SPLITS).get("splits", [])]
    chosen, notices = sides_by_name(config.path, names, "splits") if config.split == "auto" else ([], [])
    parts = [_files("path", root / name, f"{name}/") for name in chosen or names]
    if len(chosen) == 2:
        return [Side(str(root / name), files) for name, files in zip(chosen, parts, strict=True)], notices
    return [Side(config.path, [file for files in parts for file in files])], notices


def _files(field: str, folder: Path, prefix: str) -> list[File]:
    """The arrow files of one split, in order."""
    if not (folder / _STATE).is_file():
        splits = _json(folder / _SPLITS).get("splits", []) if (folder / _SPLITS).is_file() else []
        remedy = (
            f"set it to one of its splits, such as {folder / str(splits[0])}"
            if splits
            else ("name a folder that save_to_disk of the library datasets wrote")
        )
        raise UserError(f"images.{field}: {printable(str(folder))} has no {_STATE}; {printable(remedy)}")
    names = [str(entry["filename"]) for entry in _json(folder / _STATE).get("_data_files", [])]
    return [stamped(str(folder / name), prefix + name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise UserError(f"images.path: {printable(str(path))} is damaged; save the data set again")
    return tree


def _table(path: str) -> pa.Table:
    def make() -> pa.Table:
        try:
            return pa.ipc.open_stream(pa.memory_map(path)).read_all()
        except pa.ArrowInvalid as error:
            raise UserError(
                f"images.path: {printable(path)} is not a readable arrow file ({one_line(error)}); replace it"
            ) from None

    return _OPENED.get(stamp(path), make)


def _contents(keys: Sequence[str], file: File) -> list[Found]:
    table = _table(file.path)
    column = image_column(table.schema, keys, file.path)
    names: list[str | None] = []
    if column.has_path:
        # Chunk by chunk, as flattening a struct copies nothing.
        names = [name for chunk in table[column.name].chunks for name in chunk.field("path").to_pylist()]
    images = rows_found(file, names, len(table))
    return annotated(images, table.select(said_columns(table.schema)), table.schema)


def _stream(keys: Sequence[str], place: Place) -> IO[bytes]:
    table = _table(place.path)
    return io.BytesIO(content(table[image_column(table.schema, keys, place.path).name], place.at))

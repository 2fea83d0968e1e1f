"""Tables with a column of encoded images, as hubs lay them out, and what a process keeps of such files."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from drorae.data.index import File, Found, Place
from drorae.data.labels import UNFIT, caption_of, label_of
from drorae.errors import UserError, printable

T = TypeVar("T")
_USUAL = ("image", "img", "images", "jpg", "jpeg", "png", "webp")
"""Names of the column, where several could be it."""
_LABEL, _CAPTIONS = "label", ("caption", "text")
"""Names of the columns of classes and of captions; of the latter, the first there is."""


class Kept(Generic[T]):
    """The last few of what was opened or read, in this process; safe among threads, and empty after a fork."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._clear()
        os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns what is kept under a key, made where it is not there."""
        with self._lock:
            found = self._kept[key] if key in self._kept else make()
            self._kept[key] = found
            self._kept.move_to_end(key)
            if len(self._kept) > self.count:
                self._kept.popitem(last=False)
            return found


class Column(NamedTuple):
    """A column of encoded images."""

    name: str
    is_struct: bool
    """Whether it has fields `bytes` and, as a rule, `path`; else it is the bytes themselves."""
    has_path: bool


def image_column(schema: pa.Schema, keys: Sequence[str], path: str) -> Column:
    """Returns the column of a table that holds its images: the one that `images.keys` names, else the one there is.

    Raises:
        UserError: there is none, or it is not clear which.
    """
    kinds = {field.name: column for field in schema if (column := _column(field))}
    names = list(keys) or [name for name, column in kinds.items() if column.is_struct] or list(kinds)
    names = names if len(names) < 2 or keys else [name for name in _USUAL if name in names][:1]
    if len(names) == 1 and names[0] in kinds:
        return kinds[names[0]]
    listed = ", ".join(f"{printable(field.name)} ({printable(str(field.type))})" for field in schema)
    raise UserError(
        f"images.path: {printable(path)} has the columns {listed}; set images.keys to the name of one that holds "
        "encoded images: binary, or a struct of bytes and path"
    )


def _column(field: pa.Field) -> Column | None:
    if _is_binary(field.type):
        return Column(field.name, False, False)
    if not pa.types.is_struct(field.type):
        return None
    inner = {item.name: item.type for item in field.type}
    holds = "bytes" in inner and _is_binary(inner["bytes"])
    return Column(field.name, True, "path" in inner) if holds else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def rows_found(file: File, names: Sequence[str | None], count: int) -> list[Found]:
    """Returns the images of a table's file, one a row, called as their `path` says where that tells them apart."""
    named = len(names) == count and all(names) and len(set(names)) == count
    return [
        Found((names[row] if named else None) or f"{file.name}/{row}", Place(file.path, row)) for row in range(count)
    ]


def said_columns(schema: pa.Schema) -> list[str]:
    """Returns the names of the columns of a table that hold labels and captions: of numbers and of texts, quickly read.

    A column of another type that is called so is something else, such as masks.
    """
    label = [_LABEL] if _LABEL in schema.names and _is_number(schema.field(_LABEL).type) else []
    texts = (name for name in _CAPTIONS if name in schema.names and _is_text(schema.field(name).type))
    return label + list(texts)[:1]


def annotated(images: list[Found], said: pa.Table, schema: pa.Schema) -> list[Found]:
    """Returns the images of a table's file with their labels and captions.

    Args:
        images: one a row.
        said: the `said_columns`.
        schema: of all columns.
    """
    for name in said.column_names:
        values = said[name].to_pylist()
        if name == _LABEL:
            classes = _classes(schema)
            images = [
                image._replace(label=label_of(value), classes=classes)
                for image, value in zip(images, values, strict=True)
            ]
        else:
            images = [image._replace(caption=caption_of(value)) for image, value in zip(images, values, strict=True)]
    # A text is no class: which number stands for it, other files would not agree.
    if _LABEL in schema.names and _is_text(schema.field(_LABEL).type):
        images = [image._replace(label=UNFIT) for image in images]
    return images


def _classes(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the classes by label, where a hub wrote them into the schema."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][_LABEL]
        names = feature["names"] if feature["_type"] == "ClassLabel" else ()
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind) or types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def content(column: pa.ChunkedArray, row: int) -> bytes:
    """Returns the bytes in a row of a column of images, of either kind; none where it is empty."""
    value = column[row]
    if pa.types.is_struct(column.type):
        value = value["bytes"] if value.is_valid else value
    return bytes(value.as_buffer()) if value.is_valid else b""


def stamp(path: str) -> tuple[str, int, int]:
    """Returns what tells a file's content from what it held before."""
    state = os.stat(path)
    return path, state.st_size, state.st_mtime_ns

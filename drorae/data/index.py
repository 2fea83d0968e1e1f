"""What the checks of many images found, kept in one file: only files that changed since are opened again.

A file is the same while its size and its time of change are. An image that could not be used is not taken as known: its
file may have become readable without a change.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import PIL

from drorae.data.encoded import will_pass
from drorae.errors import OF_IMAGES, Notice
from drorae.storage.cache import Cache
from drorae.storage.files import UNWRITABLE, write_atomic

FOLDER = "indexes"
"""In the cache."""
_VERSION = 2
_DIGEST = hashlib.sha256().digest_size
"""Bytes at the beginning of an index: the hash of the rest."""


class File(NamedTuple):
    """A file that is an image, or holds some."""

    name: str
    """Path below its root, with forward slashes."""
    path: str
    size: int = -1
    """Bytes; -1: not to be had."""
    changed: int = 0
    """When its content last changed, in nanoseconds."""
    beside: str = ""
    """Size and time of change of the file that captions it; empty: there is none."""


def stamped(path: str, name: str) -> File:
    """Returns a file with its size and time of change, where they are to be had.

    Raises:
        OSError: the machine cannot tell just now.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        if will_pass(error):
            raise
        return File(name, path)
    return File(name, path, state.st_size, state.st_mtime_ns)


class Place(NamedTuple):
    """Where the bytes of an image lie."""

    path: str
    at: int = -1
    """The byte or the row of `path` where it begins; -1: all of `path` is the image."""
    length: int = 0
    """Bytes, where `at` is one."""


class Found(NamedTuple):
    """An image, and what is known of it."""

    name: str
    """What the split, the sample and the fingerprint go by."""
    place: Place
    depth: int = -1
    """How it was checked: 0 by its header, 1 as one of the sample, 2 whole; -1: not yet."""
    problem: str = ""
    identity: bytes = b""
    converted: str = ""
    look: bytes = b""
    label: int = -1
    """Its class; below 0: it has none (`drorae.data.labels`)."""
    caption: str = ""
    classes: tuple[str, ...] = ()
    """Names of the classes by label, where its file has them: one object for all that share it."""

    @property
    def shown(self) -> str:
        """Its path; of one in a larger file, with its name there."""
        return self.place.path if self.place.at < 0 else f"{self.place.path}/{self.name}"


Held = list[tuple[File, list[Found]]]
"""Files, and the images in each."""

# One row for every image, those of a file together. The names of classes are in the metadata, once.
_CLASSES = b"classes"
_COLUMNS = {
    "path": "binary", "size": "int64", "changed": "int64", "beside": "string", "name": "binary", "at": "int64",
    "length": "int64", "depth": "int8", "problem": "string", "identity": "binary", "converted": "string",
    "label": "int64", "caption": "string", "classes": "int32",
}  # fmt: skip
"""Their types by pyarrow's names: it takes a process a tenth of a second, and few have an index."""


@dataclass
class Index:
    """The index file of some images.

    Args:
        cache: where it lies, below `FOLDER`; None: nothing is kept.
        key: what the images are and how they are checked.
    """

    cache: Cache | None
    key: Sequence[object]
    is_whole: bool = False
    """Whether the last `look_up` found all it was asked for, and nothing that has gone since."""

    @property
    def name(self) -> str:
        """Of the file, in the cache."""
        # Another Pillow may read what this one does not.
        key = json.dumps([_VERSION, PIL.__version__, *map(str, self.key)])
        return f"{FOLDER}/{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:24]}.arrow"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits until no other process makes it."""
        with self.cache.lock(f"{self.name}.lock") if self.cache else contextlib.nullcontext():
            yield

    def look_up(self, files: Sequence[Sequence[File]], contents: Callable[[File], list[Found]]) -> list[Held]:
        """Returns the images of files, with what is known of them; those of new and of changed files are asked for."""
        known = self._read()
        self.is_whole = bool(known)

        def images(file: File) -> list[Found]:
            rows = known.pop(encoded(file.path), None)
            if rows is None or rows[0][1:4] != (file.size, file.changed, file.beside):
                self.is_whole = False
                return contents(file)
            return [self._image(file.path, *row[4:]) for row in rows]

        held = [[(file, images(file)) for file in part] for part in files]
        # What was taken away may have been of the sample.
        self.is_whole = self.is_whole and not known
        return held

    def _image(
        self, path: str, name: bytes, at: int, length: int, depth: int, problem: str, identity: bytes, converted: str,
        *said: Any,
    ) -> Found:  # fmt: skip
        if problem and depth >= 0:
            depth, problem, self.is_whole = -1, "", False
        place = Place(path, at, length)
        return Found(name.decode(errors="surrogateescape"), place, depth, problem, identity, converted, b"", *said)

    def write(self, sides: Sequence[Held]) -> None:
        """Keeps what is known of images; warns where the cache cannot be written to."""
        if self.cache is None:
            return
        # Told by identity: to compare a thousand names for every image would take long.
        classes = {id(image.classes): image.classes for side in sides for _, images in side for image in images}
        numbers = {key: number for number, key in enumerate(classes)}
        rows = [
            (encoded(file.path), file.size, file.changed, file.beside, encoded(image.name), image.place.at,
             image.place.length, image.depth, image.problem, image.identity, image.converted, image.label,
             image.caption, numbers[id(image.classes)])
            for side in sides for file, images in side for image in images
        ]  # fmt: skip
        content = _packed(rows, json.dumps(list(classes.values())).encode())
        content = hashlib.sha256(content).digest() + content
        try:
            if content != self._content():
                write_atomic(self.cache / self.name, content)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            text = (
                f"{OF_IMAGES}the index of {len(rows)} images cannot be kept in {self.cache.local} ({error.strerror}): "
                "every start reads them all again; name another cache (--cache-dir or DRORAE_CACHE)"
            )
            warnings.warn(text, Notice, stacklevel=6)

    def _read(self) -> dict[bytes, list[tuple[Any, ...]]]:
        """The rows of each file by its path; none where the index is missing or damaged."""
        content = memoryview(self._content())
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return {}
        import pyarrow as pa

        table = pa.ipc.open_file(pa.BufferReader(content[_DIGEST:])).read_all()
        classes = [tuple(names) for names in json.loads(table.schema.metadata[_CLASSES])]
        known: dict[bytes, list[tuple[Any, ...]]] = {}
        *columns, numbers = (table.column(name).to_pylist() for name in _COLUMNS)
        for row in zip(*columns, map(classes.__getitem__, numbers), strict=True):
            known.setdefault(row[0], []).append(row)
        return known

    def _content(self) -> bytes:
        """The file's; empty where it cannot be read."""
        try:
            return (self.cache / self.name).read_bytes() if self.cache else b""
        except OSError:
            return b""


def _packed(rows: Sequence[tuple[Any, ...]], classes: bytes) -> bytes:
    """Rows as an arrow file."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()], {_CLASSES: classes})
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema) as writer:
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return stream.getvalue()


def encoded(text: str) -> bytes:
    """Returns a name as bytes, of any file system."""
    return text.encode(errors="surrogateescape")

"""WebDataset shards: tar files in which members of one name but for their ending are one sample. Read at offsets."""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import IO, Any

from drorae.config import ImagesConfig
from drorae.data.collection import Holder, collect
from drorae.data.crops import Images
from drorae.data.index import File, Found, Place
from drorae.data.labels import MISSING, UNFIT, caption_of, label_of
from drorae.data.shards import shard_sides
from drorae.errors import UserError, one_line, printable
from drorae.storage.cache import Cache

ENDINGS = ("jpg", "jpeg", "png", "webp")
"""Of members that are a sample's image; of several, the first in this order."""
_LONGEST_TEXT = 2**20
"""Bytes of a member that is read for a label or a caption."""


def load_webdataset(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """Opens the images in WebDataset shards (`drorae.data.collection.collect`).

    Raises:
        UserError: no such shards, a damaged one, too few images, or too many of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    sides, notices = shard_sides(config, ".tar")
    return collect(config, sides, Holder(_contents, _stream), notices, cache)


def _contents(file: File) -> list[Found]:
    samples = _samples(file.path)
    with open(file.path, "rb") as shard:
        return [_image(key, members, file, shard) for key, members in samples.items()]


def _samples(path: str) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of a shard by the key of their sample, and in it by ending in small letters."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                # The first dot of the file's name, as WebDataset has it.
                folder, slash, last = member.name.rpartition("/")
                key, _, ending = last.partition(".")
                if member.isreg() and key and ending:
                    samples.setdefault(folder + slash + key, {}).setdefault(ending.lower(), member)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"images.path: {printable(path)} is damaged, or no plain tar file ({one_line(error)}); replace it, or "
            "unpack a compressed one with gunzip"
        ) from None
    return samples


def _image(key: str, members: dict[str, tarfile.TarInfo], file: File, shard: IO[bytes]) -> Found:
    found = next((members[ending] for ending in ENDINGS if ending in members), None)
    if found is None:
        first = next(iter(members.values()))
        return Found(key, Place(file.path, first.offset_data), problem="without an image")
    label, caption = _said({ending: _text(members, ending, shard) for ending in ("cls", "txt", "json")})
    return Found(found.name, Place(file.path, found.offset_data, found.size), label=label, caption=caption)


def _text(members: dict[str, tarfile.TarInfo], ending: str, shard: IO[bytes]) -> bytes | None:
    """The content of a small member; None: there is none."""
    member = members.get(ending)
    if member is None or member.size > _LONGEST_TEXT:
        return None
    shard.seek(member.offset_data)
    return shard.read(member.size)


def _said(texts: dict[str, bytes | None]) -> tuple[int, str]:
    """The label and the caption of a sample: of `.cls` and `.txt`, else as `.json` has them."""
    label, caption = MISSING, caption_of(texts["txt"])
    fields = _fields(texts["json"])
    if texts["cls"] is not None:
        try:
            label = label_of(int(texts["cls"]))
        except ValueError:
            label = UNFIT
    elif "label" in fields:
        label = label_of(fields["label"])
    return label, caption or next((text for name in ("caption", "text") if (text := caption_of(fields.get(name)))), "")


def _fields(text: bytes | None) -> dict[str, Any]:
    """Those of a JSON object; none of anything else."""
    try:
        fields = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _stream(place: Place) -> IO[bytes]:
    return io.BufferedReader(_Slice(place))


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._file, self._place, self._position = io.FileIO(place.path), place, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._place.length}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._place.length - self._position))
        self._file.seek(self._place.at + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

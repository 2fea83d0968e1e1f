"""A content-addressed store of memory-mapped arrays: filled once, by whoever comes first, read by everyone.

An entry is a folder named by the hash of its key, holding the array as a flat file and a manifest. It is filled
chunk by chunk under a file lock in a `.partial` folder that a killed writer leaves for the next one to go on
with, and renamed when complete.

Whoever opens an entry verifies the CRC-32 of every chunk, once per process: 5.8 GB/s from the page cache on 2 AMD
EPYC cores (2 GB read), so some 3.5 s at the default limit of 20 GB; a cold disk is read once, as the first epoch
would. A bit that flips while an entry is open goes unnoticed until it is opened again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from drorae.config import canonical_json, config_hash
from drorae.errors import Notice, UserError
from drorae.storage.cache import Cache
from drorae.storage.files import folder_bytes, naming_unreadable, write_json

MANIFEST = "manifest.json"
"""The file of an entry that makes it whole: key and checksums; written last."""
CHUNK = 256
"""Items written between two notes of progress; what a kill can cost."""


@dataclass(frozen=True)
class ArraySpec:
    """An array of the store: its name, the shape of one item and the numpy type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one item."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))} {self.dtype}"


Produce = Callable[[int, int], np.ndarray]
"""produce(start, stop): the array's items start to stop."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One array of the store on disk: `count` items, in a folder of their own."""

    folder: Path
    key: dict[str, Any]
    count: int
    spec: ArraySpec

    @property
    def partial(self) -> Path:
        """The folder in which the entry is filled."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    def read(self) -> np.ndarray | None:
        """Returns the array, or None where the entry is missing; a damaged one is set aside and reported."""
        if not self.folder.is_dir():
            return None
        try:
            with naming_unreadable(self.folder):
                return self._verify()
        except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError) as error:
            with FileLock(f"{self.folder}.aside.lock"):
                if self.folder.is_dir():
                    aside = self.folder.with_name(f"{self.folder.name}.corrupt")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(self.folder, aside)
                    message = f"cache entry {self.folder} was damaged ({error}); set aside, built again"
                    warnings.warn(message, Notice, stacklevel=3)
            return None

    def _verify(self) -> np.ndarray:
        """Returns the array, every checksum compared."""
        name = f"{self.spec.name}.bin"
        manifest = json.loads((self.folder / MANIFEST).read_text())
        if manifest["key"] != json.loads(canonical_json(self.key)) or manifest["count"] != self.count:
            raise ValueError("the manifest is another entry's")
        array = np.memmap(self.folder / name, self.spec.dtype, "r", shape=(self.count, *self.spec.shape))
        if (self.folder / name).stat().st_size != self.count * self.spec.item_bytes:
            raise ValueError(f"{name} has the wrong size")
        for index, start in enumerate(range(0, self.count, CHUNK)):
            if zlib.crc32(array[start : start + CHUNK].data) != manifest["checksums"][self.spec.name][index]:
                raise ValueError(f"{name} fails its checksum at item {start}")
        return array

    def fill(self, produce: Produce, progress: Progress) -> None:
        """Writes the items that are still missing, and gives the folder its name."""
        state_path = self.partial / "state.json"
        checksums: list[int] = []
        if state_path.is_file():
            try:
                checksums = list(json.loads(state_path.read_text())[self.spec.name])
            except (ValueError, KeyError, TypeError):
                shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        path = self.partial / f"{self.spec.name}.bin"
        path.touch()
        done = min(self.count, len(checksums) * CHUNK)
        with path.open("r+b") as file:
            file.truncate(done * self.spec.item_bytes)
            file.seek(0, os.SEEK_END)
            for start in range(done, self.count, CHUNK):
                stop = min(start + CHUNK, self.count)
                data = np.ascontiguousarray(produce(start, stop), self.spec.dtype)
                if data.shape != (stop - start, *self.spec.shape):
                    raise ValueError(f"{self.spec}: produced an array of shape {data.shape} for {stop - start} items")
                file.write(data.data)
                file.flush()
                os.fsync(file.fileno())
                checksums.append(zlib.crc32(data.data))
                write_json(state_path, {self.spec.name: checksums})
                progress(stop, self.count)
        manifest = {"key": self.key, "count": self.count, "checksums": {self.spec.name: checksums}}
        write_json(self.partial / MANIFEST, manifest)
        os.replace(self.partial, self.folder)
        # Not before: a kill in between would leave arrays that nobody knows to be complete.
        (self.folder / state_path.name).unlink(missing_ok=True)


class ArrayStore:
    """Arrays by the content of their key.

    Args:
        root: folder of the store.
        limit_bytes: `open` refuses to fill an entry that would make the store larger than this.
        cache: the cache that `root` is a folder of, where other machines may have made an entry.
    """

    def __init__(self, root: str | Path, limit_bytes: float, cache: Cache | None = None) -> None:
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        self.cache = cache or Cache(self.root.parent)

    def path(self, key: Mapping[str, Any]) -> Path:
        """Returns the folder of an entry, whether it is there or not."""
        return self.root / config_hash(dict(key))

    def open(
        self,
        key: Mapping[str, Any],
        count: int,
        spec: ArraySpec,
        produce: Produce,
        progress: Progress = lambda done, total: None,
    ) -> np.ndarray:
        """Returns the array [count, *shape] of a key, a read-only memory map; makes it first if need be.

        Processes that ask while another fills an entry wait for it.

        Args:
            key: what the array depends on.
            count: number of items.
            spec: name of the array, shape and type of an item.
            produce: returns the items start to stop.
            progress: hears how many items of how many are written.

        Raises:
            UserError: the entry does not fit the limit or the disk.
            RemoteError: a shared cache's store stays away.
        """
        entry = Entry(self.path(key), dict(key), count, spec)
        self.root.mkdir(parents=True, exist_ok=True)
        array = entry.read()
        if array is None:
            with FileLock(f"{entry.folder}.lock"):
                array = entry.read()
                if array is None:
                    array = self._make(entry, produce, progress)
        if array is None:
            raise UserError(
                f"{entry.folder}: the cache entry just written does not read back; check the disk, rename the entry "
                "and run again"
            )
        return array

    def _make(self, entry: Entry, produce: Produce, progress: Progress) -> np.ndarray | None:
        """Returns an entry's array, from another machine, or made here and shared; None where it does not read back."""
        name = f"{self.root.name}/{entry.folder.name}"
        self._check_room(entry)
        array = entry.read() if self.cache.fetch(name, last=MANIFEST) else None
        if array is not None:
            return array
        # What a killed writer left may be damaged, which shows when the entry is complete: once more, then.
        for _ in range(2):
            if array is None:
                entry.fill(produce, progress)
                array = entry.read()
        if array is not None:
            self.cache.share(name, last=MANIFEST)
        return array

    def _check_room(self, entry: Entry) -> None:
        need = entry.count * entry.spec.item_bytes
        part = folder_bytes(entry.partial)
        used = folder_bytes(self.root) - part
        if used + need > self.limit_bytes or need > shutil.disk_usage(self.root).free + part:
            # What was set aside is kept for whoever wants to look at it, as long as there is room.
            for damaged in self.root.glob("*.corrupt"):
                used -= folder_bytes(damaged)
                shutil.rmtree(damaged, ignore_errors=True)
        what = f"feature cache: {entry.count} items of {entry.spec} need {need / 1e9:.2f} GB"
        if used + need > self.limit_bytes:
            raise UserError(
                f"{what}, {self.root} holds "
                f"{used / 1e9:.2f} GB and is limited to {self.limit_bytes / 1e9:.2f} GB; raise --cache-limit-gb to "
                f"{(used + need) / 1e9 + 0.1:.1f}, move old entries elsewhere, or use --features online"
            )
        free = shutil.disk_usage(self.root).free + part
        if need > free:
            raise UserError(
                f"{what}, the disk of {self.root} has {free / 1e9:.2f} GB free; free some, set DRORAE_CACHE elsewhere, "
                "or use --features online"
            )

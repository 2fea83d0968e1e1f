"""A content-addressed store of memory-mapped arrays: filled once, by whoever comes first, read by everyone.

An entry is a folder named by the hash of its key, holding one flat file per array and a manifest. It is filled
chunk by chunk under a file lock in a `.partial` folder that a killed writer leaves for the next one to go on
with, and renamed when complete.

Whoever opens an entry verifies the CRC-32 of every chunk, once per process: 5.8 GB/s from the page cache on 2 AMD
EPYC cores (2 GB read), so some 3.5 s at the default limit of 20 GB; a cold disk is read once, as the first epoch
would. A bit that flips while an entry is open goes unnoticed until it is opened again.
"""

from __future__ import annotations

import json
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
"""The file of an entry that makes it whole: keys, checksums; written last."""
CHUNK = 256
"""Items written between two notes of progress; what a kill can cost."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape of one item and numpy type of an array of the store."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one item."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


Produce = Callable[[int, int], Mapping[str, np.ndarray]]
Progress = Callable[[int, int], None]


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
        """Folder of an entry, whether it is there or not."""
        return self.root / config_hash(dict(key))

    def open(
        self,
        key: Mapping[str, Any],
        count: int,
        specs: Mapping[str, ArraySpec],
        produce: Produce,
        progress: Progress = lambda done, total: None,
    ) -> dict[str, np.ndarray]:
        """The entry's arrays [count, *shape], read-only memory maps; fills the entry first if need be.

        `produce(start, stop)` returns the arrays' items start to stop. Processes that ask while another fills
        wait for it.

        Raises:
            UserError: the entry does not fit the limit or the disk.
            RemoteError: a shared cache's store stays away.
        """
        folder = self.path(key)
        self.root.mkdir(parents=True, exist_ok=True)
        arrays = self._read(folder, key, count, specs)
        if arrays is None:
            with FileLock(f"{folder}.lock"):
                arrays = self._read(folder, key, count, specs)
                name = f"{self.root.name}/{folder.name}"
                if arrays is None:
                    self._check_room(folder.with_name(f"{folder.name}.partial"), count, specs)
                    if self.cache.fetch(name, last=MANIFEST):
                        arrays = self._read(folder, key, count, specs)
                made = arrays is None
                # What a killed writer left may be damaged, which shows when the entry is complete: once more, then.
                for _ in range(2):
                    if arrays is None:
                        self._fill(folder, key, count, specs, produce, progress)
                        arrays = self._read(folder, key, count, specs)
                if made and arrays is not None:
                    self.cache.share(name, last=MANIFEST)
        if arrays is None:
            raise UserError(f"{folder}: the cache entry just written does not read back; check the disk, delete it")
        return arrays

    def _read(
        self, folder: Path, key: Mapping[str, Any], count: int, specs: Mapping[str, ArraySpec]
    ) -> dict[str, np.ndarray] | None:
        """The arrays, or None where the entry is missing; a damaged one is set aside and reported."""
        if not folder.is_dir():
            return None
        try:
            with naming_unreadable(folder):
                return self._verify(folder, key, count, specs)
        except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError) as error:
            with FileLock(f"{folder}.aside.lock"):
                if folder.is_dir():
                    aside = folder.with_name(f"{folder.name}.corrupt")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(folder, aside)
                    warnings.warn(
                        f"cache entry {folder} was damaged ({error}); set aside, built again", Notice, stacklevel=3
                    )
            return None

    def _verify(
        self, folder: Path, key: Mapping[str, Any], count: int, specs: Mapping[str, ArraySpec]
    ) -> dict[str, np.ndarray]:
        """The arrays, every checksum compared."""
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["key"] != json.loads(canonical_json(dict(key))) or manifest["count"] != count:
            raise ValueError("the manifest is another entry's")
        arrays: dict[str, np.ndarray] = {
            name: np.memmap(folder / f"{name}.bin", spec.dtype, "r", shape=(count, *spec.shape))
            for name, spec in specs.items()
        }
        for name, array in arrays.items():
            if (folder / f"{name}.bin").stat().st_size != count * specs[name].item_bytes:
                raise ValueError(f"{name}.bin has the wrong size")
            for index, start in enumerate(range(0, count, CHUNK)):
                if zlib.crc32(array[start : start + CHUNK].data) != manifest["checksums"][name][index]:
                    raise ValueError(f"{name}.bin fails its checksum at item {start}")
        return arrays

    def _fill(
        self,
        folder: Path,
        key: Mapping[str, Any],
        count: int,
        specs: Mapping[str, ArraySpec],
        produce: Produce,
        progress: Progress,
    ) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        state_path = partial / "state.json"
        checksums: dict[str, list[int]] = {name: [] for name in specs}
        if state_path.is_file():
            try:
                checksums = {name: list(json.loads(state_path.read_text())[name]) for name in specs}
            except (ValueError, KeyError, TypeError):
                shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        done = min(count, min(len(values) for values in checksums.values()) * CHUNK)
        files = {}
        try:
            for name, spec in specs.items():
                path = partial / f"{name}.bin"
                path.touch()
                files[name] = path.open("r+b")
                files[name].truncate(done * spec.item_bytes)
                files[name].seek(0, os.SEEK_END)
            for start in range(done, count, CHUNK):
                stop = min(start + CHUNK, count)
                for name, values in produce(start, stop).items():
                    data = np.ascontiguousarray(values, specs[name].dtype)
                    if data.shape != (stop - start, *specs[name].shape):
                        raise ValueError(f"{name}: produced {data.shape}, declared {specs[name].shape} per item")
                    files[name].write(data.data)
                    files[name].flush()
                    os.fsync(files[name].fileno())
                    checksums[name].append(zlib.crc32(data.data))
                write_json(state_path, checksums)
                progress(stop, count)
        finally:
            for file in files.values():
                file.close()
        write_json(partial / MANIFEST, {"key": dict(key), "count": count, "checksums": checksums})
        os.replace(partial, folder)
        # Not before: a kill in between would leave arrays that nobody knows to be complete.
        (folder / state_path.name).unlink(missing_ok=True)

    def _check_room(self, partial: Path, count: int, specs: Mapping[str, ArraySpec]) -> None:
        need = count * sum(spec.item_bytes for spec in specs.values())
        partial_bytes = folder_bytes(partial)
        used = folder_bytes(self.root) - partial_bytes
        if used + need > self.limit_bytes or need > shutil.disk_usage(self.root).free + partial_bytes:
            # What was set aside is kept for whoever wants to look at it, as long as there is room.
            for damaged in self.root.glob("*.corrupt"):
                used -= folder_bytes(damaged)
                shutil.rmtree(damaged, ignore_errors=True)
        shapes = ", ".join(f"{name} {'x'.join(map(str, spec.shape))} {spec.dtype}" for name, spec in specs.items())
        if used + need > self.limit_bytes:
            raise UserError(
                f"feature cache: {count} items of {shapes} need {need / 1e9:.2f} GB, {self.root} holds "
                f"{used / 1e9:.2f} GB and is limited to {self.limit_bytes / 1e9:.2f} GB; raise --cache-limit-gb to "
                f"{(used + need) / 1e9 + 0.1:.1f}, delete old entries, or use --features online"
            )
        free = shutil.disk_usage(self.root).free + partial_bytes
        if need > free:
            raise UserError(
                f"feature cache: {count} items of {shapes} need {need / 1e9:.2f} GB, the disk of {self.root} has "
                f"{free / 1e9:.2f} GB free; free some, set DRORAE_CACHE elsewhere, or use --features online"
            )

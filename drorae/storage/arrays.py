"""A content-addressed store of arrays: filled once, by whoever comes first, read item by item by everyone.

An entry is a folder named by the hash of its key. It holds the array in shards of a fixed number of items, and a
manifest with the SHA-256 of each. It is filled shard by shard under a file lock in a `.partial` folder that a killed
writer leaves for the next one to go on with, and renamed when complete.

Opening an entry looks at its manifest and at the sizes of its shards. A shard is read whole, and its SHA-256 compared,
when a process first uses it; a damaged one is set aside and made again alone. A bit that flips after that goes
unnoticed until another process reads it.

Versions up to 0.1 kept an array in one file, with a CRC-32 of every chunk of items. Such an entry is used as it is, and
verified whole on opening.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from drorae.config import canonical_json, config_hash
from drorae.errors import Notice, UserError
from drorae.runtime import distributed
from drorae.storage.cache import Cache
from drorae.storage.eviction import EVICTED, Candidate, Hold, candidates, hold
from drorae.storage.files import file_sha256, folder_bytes, naming_unreadable, remove_drafts, replacing, write_json
from drorae.storage.sealed import move_aside

MANIFEST = "manifest.json"
"""The file of an entry that makes it whole: key and checksums; written last."""
LAYOUT = 2
"""Of an entry's folder; part of its address, so that no older version takes it for a damaged one of its own."""
SHARD_BYTES = 2**29
"""A shard holds as many items, a power of two, as fit; it has 256 to 512 MiB, then. What a kill can cost."""
OPEN_SHARDS = 128
"""Shards of an array that are mapped at once. Each takes a file descriptor, of which a process often has 1024."""
CHUNK = 256
"""Items made between two notes of progress."""
FORMER_CHUNK = 256
"""Items of a checksum, of entries that older versions have made."""
DAMAGED = "damaged ({reason}); set aside as {aside} and made again"


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

    @property
    def shard_items(self) -> int:
        """Items of a shard: a power of two, so that those encoded at once never lie in two."""
        return 1 << (max(SHARD_BYTES // self.item_bytes, 1).bit_length() - 1)

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))} {self.dtype}"


Produce = Callable[[int, int], np.ndarray]
"""produce(start, stop): the array's items start to stop."""
Progress = Callable[[int, int], None]


class StoredArray:
    """An array [count, *shape] on disk, of which items are read.

    Args:
        count: number of items.
        spec: shape and type of an item.
        shard_items: items of a shard; the last one may have fewer.
        shard: returns a shard by its number, from 0.
    """

    def __init__(self, count: int, spec: ArraySpec, shard_items: int, shard: Callable[[int], np.ndarray]) -> None:
        self.shape, self.dtype = (count, *spec.shape), np.dtype(spec.dtype)
        self._items, self._shard = shard_items, functools.lru_cache(OPEN_SHARDS)(shard)
        self.held: Hold | None = None
        """Keeps the entry from being removed as long as the array is there."""

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, items: np.ndarray, first: int = 0) -> np.ndarray:
        """Returns a copy of items [B], of the first axis of each what lies from `first` on."""
        numbers, places = items // self._items, items % self._items
        used = np.unique(numbers)
        if len(used) == 1:
            return np.asarray(self._shard(int(used[0]))[places, first:])
        found = np.empty((len(items), self.shape[1] - first, *self.shape[2:]), self.dtype)
        for number in used:
            here = numbers == number
            found[here] = self._shard(int(number))[places[here], first:]
        return found


class Listed(NamedTuple):
    """What a manifest says of the shards."""

    items: int
    """Of each; the last one may have fewer."""
    sha256: list[str]
    """Of the whole ones, in order."""


def _unheard(done: int, total: int) -> None:
    """Progress that nobody hears of."""


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

    def shard_path(self, folder: Path, number: int) -> Path:
        """Returns the file of a shard."""
        return folder / f"{self.spec.name}-{number:05d}.bin"

    def shard_count(self, number: int, items: int) -> int:
        """Returns how many items a shard has, of entries that have `items` in each."""
        return min(items, self.count - number * items)

    def listed(self, folder: Path) -> Listed:
        """Returns what a folder's manifest lists.

        Raises:
            FileNotFoundError, ValueError, KeyError, TypeError: there is none, or it is damaged.
        """
        tree = self._manifest(folder)
        return Listed(int(tree["shard_items"]), [str(digest) for digest in tree["sha256"]])

    def _manifest(self, folder: Path) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if tree["key"] != json.loads(canonical_json(self.key)) or tree["count"] != self.count:
            raise ValueError("the manifest is another entry's")
        return tree

    def write_manifest(self, folder: Path, listed: Listed) -> None:
        """Writes a folder's manifest."""
        tree = {"key": self.key, "count": self.count, "shard_items": listed.items, "sha256": listed.sha256}
        write_json(folder / MANIFEST, tree)

    def fill(self, produce: Produce, progress: Progress) -> None:
        """Writes the shards that are still missing, and gives the folder its name.

        Several processes on a trial write a shard each, in turn; the main one keeps the account of what is written.
        """
        main = distributed.is_main()
        done = distributed.from_main(self._begun() if main else None)
        assert done is not None
        count = math.ceil(self.count / done.items)
        for first in range(len(done.sha256), count, distributed.world_size()):
            number, mine = first + distributed.rank(), None
            if number < count:
                remove_drafts(self.shard_path(self.partial, number))
                mine = self.write(self.partial, number, done.items, produce, progress if main else _unheard)
            done.sha256.extend(digest for digest in distributed.gathered(mine) if digest is not None)
            if main:
                self.write_manifest(self.partial, done)
                progress(min(len(done.sha256) * done.items, self.count), self.count)
        if main:
            os.replace(self.partial, self.folder)

    def _begun(self) -> Listed:
        """What an earlier sitting has left of the entry, whose folder is there from now on."""
        items, processes = self.spec.shard_items, distributed.world_size()
        if processes > 1:
            # Of a small array each still has a part: whole chunks, so that it is made in the same batches as by one.
            items = min(items, math.ceil(self.count / processes / CHUNK) * CHUNK)
        done = Listed(items, [])
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            left = self.listed(self.partial)
            # As many processes as are here now may not have begun it.
            done = left if left.items > 0 else done
        self.partial.mkdir(parents=True, exist_ok=True)
        return done

    def write(self, folder: Path, number: int, items: int, produce: Produce, progress: Progress) -> str:
        """Makes a shard; returns its SHA-256."""
        first, digest = number * items, hashlib.sha256()
        last = first + self.shard_count(number, items)
        with replacing(self.shard_path(folder, number)) as temporary, temporary.open("wb") as file:
            for start in range(first, last, CHUNK):
                stop = min(start + CHUNK, last)
                data = np.ascontiguousarray(produce(start, stop), self.spec.dtype)
                if data.shape != (stop - start, *self.spec.shape):
                    raise ValueError(f"{self.spec}: produced an array of shape {data.shape} for {stop - start} items")
                digest.update(data.data)
                file.write(data.data)
                # Whoever hears of its end may count on it.
                if stop < last:
                    progress(stop, self.count)
        return digest.hexdigest()

    def read_single(self) -> StoredArray:
        """Returns the array of an entry that an older version has made, every checksum compared.

        Raises:
            FileNotFoundError, ValueError, KeyError, IndexError, TypeError: it is damaged.
        """
        manifest, path = self._manifest(self.folder), self.folder / f"{self.spec.name}.bin"
        array = np.memmap(path, self.spec.dtype, "r", shape=(self.count, *self.spec.shape))
        if path.stat().st_size != self.count * self.spec.item_bytes:
            raise ValueError(f"{path.name} has the wrong size")
        for index, start in enumerate(range(0, self.count, FORMER_CHUNK)):
            if zlib.crc32(array[start : start + FORMER_CHUNK].data) != manifest["checksums"][self.spec.name][index]:
                raise ValueError(f"{path.name} fails its checksum at item {start}")
        return StoredArray(self.count, self.spec, self.count, lambda number: array)


_sound: set[tuple[Path, int, int, int]] = set()
"""Shards that this process has read whole, by what changes when one takes the place of another."""


class _Shards:
    """An entry's shards: verified when first used, and made again where they are damaged.

    Raises:
        FileNotFoundError, ValueError, KeyError, TypeError: there is no manifest, or it is damaged.
    """

    def __init__(self, entry: Entry, cache: Cache, produce: Produce) -> None:
        self.entry, self.cache, self.produce = entry, cache, produce
        self.listed = entry.listed(entry.folder)
        if len(self.listed.sha256) != math.ceil(entry.count / max(self.listed.items, 1)):
            raise ValueError("the manifest lists too few shards, or too many")
        for number in range(len(self.listed.sha256)):
            if self._misfit(number):
                self._mend(number)

    @property
    def array(self) -> StoredArray:
        """All of them as one."""
        return StoredArray(self.entry.count, self.entry.spec, self.listed.items, self.open)

    def open(self, number: int) -> np.ndarray:
        """Returns a shard, a read-only memory map.

        Raises:
            UserError: it may not be read, or is damaged in a cache that may not be written to.
        """
        entry, path = self.entry, self.entry.shard_path(self.entry.folder, number)
        with naming_unreadable(path):
            if self._damage(number):
                self._mend(number)
            shape = (entry.shard_count(number, self.listed.items), *entry.spec.shape)
            return np.memmap(path, entry.spec.dtype, "r", shape=shape)

    def _misfit(self, number: int) -> str:
        """What a look at a shard says against it."""
        try:
            size = self.entry.shard_path(self.entry.folder, number).stat().st_size
        except FileNotFoundError:
            return "it is missing"
        right = self.entry.shard_count(number, self.listed.items) * self.entry.spec.item_bytes
        return "" if size == right else f"it has {size} bytes of {right}"

    def _damage(self, number: int) -> str:
        """What is wrong with a shard, which is read whole unless this process has."""
        if misfit := self._misfit(number):
            return misfit
        path = self.entry.shard_path(self.entry.folder, number)
        status = path.stat()
        stamp = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp not in _sound:
            if file_sha256(path) != self.listed.sha256[number]:
                return "its SHA-256 is not the manifest's"
            _sound.add(stamp)
        return ""

    def _mend(self, number: int) -> None:
        """Makes a damaged shard again; nothing where another process has."""
        entry, folder = self.entry, self.entry.folder
        path = entry.shard_path(folder, number)
        with self.cache.naming_unwritable(), FileLock(f"{folder}.aside.lock"):
            # Whoever mends one lists it anew; of a folder that was removed, what was listed is known.
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                self.listed = entry.listed(folder)
            if damage := self._damage(number):
                message = f"{path}: " + DAMAGED.format(reason=damage, aside=move_aside(path))
                warnings.warn(message, Notice, stacklevel=5)
                self.listed.sha256[number] = entry.write(folder, number, self.listed.items, self.produce, _unheard)
                entry.write_manifest(folder, self.listed)
                for name in (path.name, MANIFEST):
                    self.cache.share(f"{folder.parent.name}/{folder.name}/{name}")


class ArrayStore:
    """Arrays by the content of their key.

    Args:
        root: folder of the store.
        limit_bytes: `open` refuses to fill an entry that would make the store larger than this.
        cache: the cache that `root` is a folder of, where other machines may have made an entry.
        evict: whether entries that nobody has open are removed where there is no room, those used longest ago first.
    """

    def __init__(self, root: str | Path, limit_bytes: float, cache: Cache | None = None, evict: bool = False) -> None:
        self.root = Path(root)
        self.limit_bytes, self.evict = limit_bytes, evict
        self.cache = cache or Cache(self.root.parent)

    def path(self, key: Mapping[str, Any]) -> Path:
        """Returns the folder of an entry, whether it is there or not."""
        return self.root / config_hash({**key, "layout": LAYOUT})

    def former_path(self, key: Mapping[str, Any]) -> Path:
        """Returns where versions before shards would have put it."""
        return self.root / config_hash(dict(key))

    def holds(self, key: Mapping[str, Any]) -> bool:
        """Whether an entry is there, or in a shared cache's store, without a look at its items.

        Raises:
            RemoteError: the store stays away.
        """
        names = [f"{self.root.name}/{path.name}/{MANIFEST}" for path in (self.path(key), self.former_path(key))]
        return any(self.cache.holds(name) for name in names)

    def open(
        self,
        key: Mapping[str, Any],
        count: int,
        spec: ArraySpec,
        produce: Produce,
        progress: Progress = lambda done, total: None,
    ) -> StoredArray:
        """Returns the array [count, *shape] of a key; makes it first if need be.

        Processes that ask while another fills an entry wait for it; those on one trial all ask, and fill it together.

        Args:
            key: what the array depends on.
            count: number of items.
            spec: name of the array, shape and type of an item.
            produce: returns the items start to stop; kept for shards that turn out damaged when they are used.
            progress: hears how many items of how many are written.

        Raises:
            UserError: the entry does not fit the limit or the disk.
            RemoteError: a shared cache's store stays away.
        """
        entry = Entry(self.path(key), dict(key), count, spec)
        self.root.mkdir(parents=True, exist_ok=True)
        main = distributed.is_main()
        array = self._read(entry, produce) if main else None
        if distributed.from_main(array is None):
            with distributed.main_lock(FileLock(f"{entry.folder}.lock")):
                array = self._read(entry, produce) if main else None
                if distributed.from_main(array is None):
                    array = self._make(entry, produce, progress)
        if not main:
            array = self._read(entry, produce)
        if array is None:
            raise UserError(
                f"{entry.folder}: the cache entry just written does not read back; check the disk, rename the entry "
                "and run again"
            )
        return array

    def _read(self, entry: Entry, produce: Produce) -> StoredArray | None:
        """Returns an entry's array, or an older version's; None where there is none, or a damaged one was set aside."""
        former = replace(entry, folder=self.former_path(entry.key))
        for at in (entry, former):
            if not at.folder.is_dir() or (held := hold(at.folder)) is None:
                continue
            try:
                with naming_unreadable(at.folder):
                    array = at.read_single() if at is former else _Shards(at, self.cache, produce).array
                array.held = held
                return array
            except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError) as error:
                self._set_aside(at.folder, error)
        return None

    def _set_aside(self, folder: Path, error: Exception) -> None:
        with FileLock(f"{folder}.aside.lock"):
            if folder.is_dir():
                aside = folder.with_name(f"{folder.name}.corrupt")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(folder, aside)
                message = f"cache entry {folder}: " + DAMAGED.format(reason=error, aside=aside.name)
                warnings.warn(message, Notice, stacklevel=5)

    def _make(self, entry: Entry, produce: Produce, progress: Progress) -> StoredArray | None:
        """Returns an entry's array, from another machine, or made here and shared; None where it does not read back.

        Of several processes the main one alone gets it.
        """
        main, array = distributed.is_main(), None
        if main:
            self._check_room(entry)
            array = self._fetched(entry, produce)
        if distributed.from_main(array is None):
            entry.fill(produce, progress)
            if main and (array := self._read(entry, produce)) is not None:
                self.cache.share(f"{self.root.name}/{entry.folder.name}", last=MANIFEST)
        return array

    def _fetched(self, entry: Entry, produce: Produce) -> StoredArray | None:
        for folder in (entry.folder, self.former_path(entry.key)):
            fetched = self.cache.fetch(f"{self.root.name}/{folder.name}", last=MANIFEST)
            if fetched and (array := self._read(entry, produce)) is not None:
                return array
        return None

    def _check_room(self, entry: Entry) -> None:
        """Makes room for an entry, as far as that is allowed.

        Raises:
            UserError: there is too little.
        """
        need = entry.count * entry.spec.item_bytes
        short = self._short(entry, need)
        if short > 0:
            # What was set aside is kept for whoever wants to look at it, as long as there is room.
            for left in [*self.root.glob("*.corrupt"), *self.root.glob(f"*{EVICTED}")]:
                shutil.rmtree(left, ignore_errors=True)
            for damaged in self.root.glob("*/*.damaged"):
                damaged.unlink(missing_ok=True)
            short = self._short(entry, need)
        if short <= 0:
            return
        victims: list[Candidate] = []
        for candidate in candidates(self.root, MANIFEST):
            if sum(victim.size for victim in victims) < short:
                victims.append(candidate)
        # Where all of them would not do, none goes.
        enough = sum(victim.size for victim in victims) >= short
        if self.evict and enough:
            for victim in victims:
                if victim.remove():
                    warnings.warn(f"cache {self.root}: removed {victim} to make room", Notice, stacklevel=5)
            short = self._short(entry, need)
        if short > 0:
            raise UserError(self._refusal(entry, need, victims if enough and not self.evict else []))

    def _used(self, entry: Entry) -> int:
        """Bytes of the store, without what there is of an entry that is being filled."""
        return folder_bytes(self.root) - folder_bytes(entry.partial)

    def _short(self, entry: Entry, need: int) -> float:
        """How many bytes more an entry needs than the limit and the disk leave it."""
        free = shutil.disk_usage(self.root).free + folder_bytes(entry.partial)
        return max(self._used(entry) + need - self.limit_bytes, need - free)

    def _refusal(self, entry: Entry, need: int, victims: Sequence[Candidate]) -> str:
        """One line on an entry for which there is no room; names the entries that could go."""
        what = f"feature cache: {entry.count} items of {entry.spec} need {need / 1e9:.2f} GB"
        used, free = self._used(entry), shutil.disk_usage(self.root).free + folder_bytes(entry.partial)
        evict = f"let --cache-evict remove {', '.join(map(str, victims))}, " if victims else ""
        if used + need > self.limit_bytes:
            return (
                f"{what}, {self.root} holds {used / 1e9:.2f} GB and is limited to {self.limit_bytes / 1e9:.2f} GB; "
                f"raise --cache-limit-gb to {(used + need) / 1e9 + 0.1:.1f}, {evict}move old entries elsewhere, or use "
                "--features online"
            )
        return (
            f"{what}, the disk of {self.root} has {free / 1e9:.2f} GB free; free some, {evict}set DRORAE_CACHE "
            "elsewhere, or use --features online"
        )

"""The feature cache's write, opening and reads against the disk's: the same bytes, in turn.

    python tests/benchmarks/benchmark_cache.py            # a minute or two on 2 cores

Writing counts until the bytes are on the disk (fsync), for both; the cache sums them up on the way. Opening looks at a
manifest and at the sizes of all shards, and is compared to reading what was opened. Reading is of files that the system
is told to drop from memory first, items in their order: the first time in a process, when every shard is read whole and
its SHA-256 compared before its items are copied, and again. Set TMPDIR to try another disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from alternate import alternate, arguments, record, timed

from drorae.storage import arrays
from drorae.storage.arrays import CHUNK, ArraySpec, ArrayStore, StoredArray

SHAPE = (12, 64, 384)
"""Layers, patches and width of a small encoder's features."""
SHARD_BYTES = 2**25
"""Of a shard that is read, so that the store has some dozens: 16 of them have the bytes of a usual one."""


def dropped(folder: Path) -> None:
    """Asks the system to forget the files' contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Runs the comparisons and records them."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=1024, help="of 0.6 MB each")
    options = parser.parse_args()
    chunk = np.random.default_rng(0).integers(-(2**15), 2**15, (CHUNK, *SHAPE), np.int16)
    spec, key = ArraySpec("layers", SHAPE, "int16"), {"images": "random"}
    with tempfile.TemporaryDirectory() as name:
        stored, plain = Path(name) / "store", Path(name) / "plain"

        def open_cache() -> StoredArray:
            return ArrayStore(stored, 1e12).open(key, options.images, spec, lambda start, stop: chunk[: stop - start])

        def read_cache() -> None:
            array = open_cache()
            for start in range(0, options.images, CHUNK):
                array.take(np.arange(start, min(start + CHUNK, options.images)))

        def write_plain() -> None:
            with plain.open("wb") as file:
                for start in range(0, options.images, CHUNK):
                    file.write(chunk[: options.images - start].data)
                file.flush()
                os.fsync(file.fileno())

        def read_plain() -> None:
            buffer = memoryview(bytearray(chunk.nbytes))
            with plain.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

        def emptied() -> None:
            shutil.rmtree(stored, ignore_errors=True)
            plain.unlink(missing_ok=True)

        def forgotten() -> None:
            """As in another process: what a shard's time does not show to be the one that was read is read again."""
            for path in stored.rglob("*.bin"):
                os.utime(path)
            dropped(Path(name))

        size = f"{options.images * spec.item_bytes / 1e9:.2f} GB"
        things = {"cache": timed(open_cache, emptied), "disk": timed(write_plain, emptied)}
        found = [alternate(f"write {size}", things, rounds=options.rounds)]
        emptied()
        arrays.SHARD_BYTES = SHARD_BYTES
        open_cache()
        write_plain()
        shards = len(list(stored.rglob("*.bin")))
        disk = timed(read_plain, lambda: dropped(Path(name)))
        for what, done, others in (
            (f"open {shards} shards", timed(open_cache, forgotten), {"reading all": timed(read_cache, forgotten)}),
            (f"first read {size}", timed(read_cache, forgotten), {"disk": disk}),
            (f"read {size} again", timed(read_cache, lambda: dropped(Path(name))), {"disk": disk}),
        ):
            found.append(alternate(what, {"cache": done, **others}, rounds=options.rounds))
    record("cache", found, options.out, note="A first read compares every shard's SHA-256; opening reads none.")


if __name__ == "__main__":
    main()

"""Seconds until 100,000 JPEGs are open, the first time and the second, as files, in tar shards and in parquet.

    python tests/benchmarks/benchmark_index.py          # about a minute on 2 cores

The images are one small JPEG with another comment each. A second start lists files, compares sizes and times, and reads
the index; crops and fingerprints of the three forms are compared on the way.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np
from alternate import Comparison, alternate, arguments, record, timed
from held import write_held
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.storage.cache import Cache

IMAGES = 100_000
SHARDS = 100
SECOND_SECONDS = 2.0
"""The target of a second start."""
SOURCES = ("folder", "webdataset", "parquet")


def images(count: int) -> dict[str, bytes]:
    """JPEGs of the same picture, no two alike, in a thousand folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32)).save(stream, "JPEG", comment=b"%010d")
    content = stream.getvalue()
    return {f"{n // 100:04}/{n % 100:02}.jpg": content.replace(b"%010d", b"%010d" % n) for n in range(count)}


def main() -> None:
    """Runs the comparisons and records them."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args()
    made, first = images(options.images), dict[str, float]()
    comparisons: list[Comparison] = []
    crops, fingerprints = list[np.ndarray](), set[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name) / "cache")
        for source in SOURCES:
            # Folders stand right below the one that is named: `train` would be in the name of every image.
            held = {"" if source == "folder" else "train": made}
            path = write_held(Path(name) / source, source, held, SHARDS)
            config = ImagesConfig(source=source, path=str(path), size=32)  # type: ignore[arg-type]
            began = time.perf_counter()
            found = load_images(config, cache)
            first[source] = time.perf_counter() - began
            crops.append(found.train.crops(range(0, len(found.train), 1000)))
            fingerprints.add((found.train.fingerprint, found.val.fingerprint))
            second = timed(partial(load_images, config, cache))
            case = f"{options.images} images, {source}, second start"
            comparisons.append(
                alternate(case, {"drorae": second}, rounds=options.rounds, warm_up=False, at_most=SECOND_SECONDS)
            )
    if not all(np.array_equal(crops[0], other) for other in crops[1:]) or len(fingerprints) > 1:
        raise SystemExit("the crops or fingerprints of the same images differ")
    said = ", ".join(f"{source} {seconds:.1f} s" for source, seconds in first.items())
    note = f"First start, which checks every image: {said}. A second one is bound by one stat for every file or shard."
    record("index", comparisons, options.out, note=f"{note} Crops and fingerprints of the three are the same.")


if __name__ == "__main__":
    main()

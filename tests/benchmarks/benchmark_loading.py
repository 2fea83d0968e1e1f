"""Crops per second through the loader against torchvision's, with two processes each; and what a device waits.

    python tests/benchmarks/benchmark_loading.py          # four minutes on 2 cores

All decode the same JPEGs, take their shorter side to 288 px by bicubic and cut 256 px out of it, in batches of 20: 200
photographs of 500 x 400 px, and 40 of 1500 x 1200, where `images.draft` has something to save. torchvision's loader is
that of its examples, which reads pictures by Pillow, and beside it one of its own decoder and resize. Ours takes them
to that size by torch's kernels, as the presets of published recipes do, or by Pillow's. Starting the processes is left
out, and so is what they have ready when a round begins. A device is a sleep of twice what a batch took before; what it
waits is the rest of its time (target: at most 3% above the sleep alone).
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from alternate import Comparison, alternate, arguments, record, timed
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from drorae.config import ImagesConfig
from drorae.data.features import OnlineFeatures
from drorae.data.images import load_images
from drorae.data.loading import AHEAD, Loader, Place, Request
from drorae.data.photos import read_photos
from drorae.models.encoder import Encoder

WORKERS, BATCH, SIZE, RESIZE = 2, 20, 256, 288
READY = AHEAD * WORKERS + 1
"""Batches that a round finds made already, at most."""
SLOWER = 2
"""Times what a batch takes: the step of a device that the loader is fast enough for."""
MOST_WAITING = 0.03
LEAST = 1.3
"""Times torchvision's rate."""
Next = Callable[[], object]


def write_photographs(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs of windows of the bundled photographs, in the one class folder that torchvision asks for."""
    (folder / "class").mkdir(parents=True)
    photos, generator = [Image.fromarray(photo) for photo in read_photos()], np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        share = min(photo.width / width, photo.height / height) * generator.uniform(0.6, 1)
        left = generator.uniform(0, photo.width - share * width)
        top = generator.uniform(0, photo.height - share * height)
        box = (left, top, left + share * width, top + share * height)
        picture = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        picture.save(folder / "class" / f"{number:04}.jpg", quality=90)


def through_ours(stack: ExitStack, config: ImagesConfig) -> Next:
    """Returns what hands out the next batch of our loader."""
    images = load_images(config).train
    # Nothing is encoded: batches of no layers.
    features = OnlineFeatures(images, cast(Encoder, None), torch.float32, 0, torch.device("cpu"))

    def schedule(place: Place) -> Iterator[Request]:
        for step in itertools.count(place.step):
            items = np.random.default_rng(step).integers(len(images), size=BATCH)
            yield Request(Place(step, 0, BATCH), items, step)

    loader = stack.enter_context(closing(Loader(features, 0, schedule, WORKERS, torch.device("cpu"))))
    steps = itertools.count()
    return lambda: loader.take(Place(next(steps), 0, BATCH))


def through_torchvision(folder: Path, tensors: bool = False) -> Next:
    """Returns what hands out the next batch of torchvision's images and torch's loader.

    tensors: by torchvision's own decoder and resize; else as its examples have them, by Pillow's.
    """
    bicubic = v2.InterpolationMode.BICUBIC
    steps = [v2.Resize(RESIZE, bicubic), v2.RandomCrop(SIZE), *([] if tensors else [v2.PILToTensor()])]
    reads = {"loader": decode_rgb} if tensors else {}
    images = datasets.ImageFolder(str(folder), v2.Compose(steps), **reads)
    sampler = torch.utils.data.RandomSampler(images, replacement=True, num_samples=10**6)
    loader: DataLoader[Any] = DataLoader(images, BATCH, sampler=sampler, num_workers=WORKERS)
    batches = iter(loader)
    return lambda: next(batches)


def decode_rgb(path: str) -> torch.Tensor:
    """A picture as torchvision's decoder reads it, uint8 [3, H, W]."""
    return decode_image(path, ImageReadMode.RGB)


def some(take: Next, count: int) -> Callable[[], None]:
    """Returns what takes so many batches."""

    def work() -> None:
        for _ in range(count):
            take()

    return work


def after(first: Callable[[], None], work: Callable[[], None]) -> Callable[[], None]:
    """Returns what does both in turn."""

    def both() -> None:
        first()
        work()

    return both


def settled() -> None:
    """Waits until no loader's process works: what one still cuts ahead would take the cores of the next."""
    processes, used = psutil.Process().children(recursive=True), -1.0
    while (now := sum(process.cpu_times().user for process in processes)) > used:
        used = now
        time.sleep(0.3)


def main() -> None:
    """Runs the comparisons and records them."""
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, default=15, help=f"of {BATCH} images, in a round of each")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found, rates, ours = list[Comparison](), list[str](), list[Next]()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for count, width, height in ((200, 500, 400), (40, 1500, 1200)):
            folder = Path(name) / str(width)
            write_photographs(folder, count, width, height)
            config = ImagesConfig(
                source="folder", path=str(folder), size=SIZE, resize=RESIZE, val_fraction=0.05, views=0
            )
            fast = replace(config, resampling="torch")
            takes = {
                "drorae, torch": through_ours(stack, fast),
                "drorae": through_ours(stack, config),
                "torchvision": through_torchvision(folder),
                "torchvision on tensors": through_torchvision(folder, tensors=True),
            }
            ours.append(takes["drorae, torch"])
            if min(width, height) >= 4 * RESIZE:
                takes["drorae, torch and draft"] = through_ours(stack, replace(fast, draft=True))
                takes["drorae, draft"] = through_ours(stack, replace(config, draft=True))
            things = {
                each: timed(some(take, options.batches), after(settled, some(take, READY)))
                for each, take in takes.items()
            }
            images = options.batches * BATCH
            found.append(alternate(f"{images} of {width} x {height}", things, rounds=options.rounds))
            each_s = ", ".join(f"{each} {images / found[-1].median(each):.0f}/s" for each in takes)
            target = f"with torch {found[-1].ratio('torchvision'):.2f} times torchvision's (at least {LEAST})"
            rates.append(f"Images of {width} x {height}: {each_s}; {target}.")
        step = SLOWER * found[0].median("drorae, torch") / options.batches

        def device() -> None:
            time.sleep(step)

        def fed() -> None:
            ours[0]()
            device()

        things = {"fed": timed(some(fed, options.batches)), "never waiting": timed(some(device, options.batches))}
        limit = (1 + MOST_WAITING) * options.batches * step
        case = f"{options.batches} steps of {1000 * step:.0f} ms"
        found.append(alternate(case, things, rounds=options.rounds, at_most=limit))
    waiting = 1 / found[-1].ratio("never waiting") - 1
    record("loading", found, options.out, f"{' '.join(rates)} The device waits {waiting:.1%} of its own time.")


if __name__ == "__main__":
    main()

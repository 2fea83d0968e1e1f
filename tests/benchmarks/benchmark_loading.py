"""Crops per second through the loader against torchvision's, with two processes each; and what a device waits.

    python tests/benchmarks/benchmark_loading.py          # two minutes on 2 cores

Both decode the same JPEGs, take their shorter side to 288 px by bicubic and cut 256 px out of it, in batches of 20: 200
photographs of 500 x 400 px, and 40 of 1500 x 1200, where `images.draft` has something to save. Starting the processes
is left out, and so is what they have ready when a round begins. A device is a sleep of twice what a batch took before;
what it waits is the rest of its time (target: at most 3% above the sleep alone).
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
from torchvision import datasets, transforms

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


def through_torchvision(folder: Path) -> Next:
    """Returns what hands out the next batch of torchvision's images and torch's loader, as its examples have them."""
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(RESIZE, bicubic), transforms.RandomCrop(SIZE), transforms.PILToTensor()]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    sampler = torch.utils.data.RandomSampler(images, replacement=True, num_samples=10**6)
    loader: DataLoader[Any] = DataLoader(images, BATCH, sampler=sampler, num_workers=WORKERS)
    batches = iter(loader)
    return lambda: next(batches)


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
            takes = {"drorae": through_ours(stack, config), "torchvision": through_torchvision(folder)}
            ours.append(takes["drorae"])
            if min(width, height) >= 4 * RESIZE:
                takes = {"drorae, draft": through_ours(stack, replace(config, draft=True)), **takes}
            batches = options.batches if width < 1000 else max(1, options.batches // 3)
            things = {
                each: timed(some(take, batches), after(settled, some(take, READY))) for each, take in takes.items()
            }
            found.append(alternate(f"{batches * BATCH} of {width} x {height}", things, rounds=options.rounds))
            rates += [f"{each} {batches * BATCH / found[-1].median(each):.0f}/s" for each in takes]
        step = SLOWER * found[0].median("drorae") / options.batches

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
    record(
        "loading", found, options.out, f"Images: {', '.join(rates)}. The device waits {waiting:.1%} of its own time."
    )


if __name__ == "__main__":
    main()

"""Encoded images as training and validation set, whatever holds them: checked, split, compared and cut.

They are checked before anything is trained: up to `FULL_CHECK_FILES` are decoded completely and hashed; of more, only
the beginnings are read and a sample is hashed, which an index remembers (`drorae.data.index`), and a truncated image
shows itself when it is first decoded.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.crops import Annotations, CropSet, Images, Reduced, subset
from drorae.data.duplicates import Portrait, report_shared
from drorae.data.encoded import HEAD_BYTES, SAMPLE_BYTES, Seen, decode, examine, raise_limit, will_pass
from drorae.data.index import File, Found, Held, Index, Place, encoded
from drorae.data.labels import annotate, by_folders
from drorae.errors import OF_IMAGES, Notice, UserError, one_line, printable
from drorae.storage.cache import Cache

FULL_CHECK_FILES = 20_000
SAMPLE_FILES = 2000
"""Of more images than are hashed completely, so many of each side are."""
HEAD, SAMPLED, WHOLE = range(3)
"""How an image is checked (`Found.depth`)."""
BAD_SHARE = 0.05
THREADS = min(8, max(2, os.cpu_count() or 1))
"""Images read at once."""


class Side(NamedTuple):
    """The files of the training or of the validation images, or of both where they are yet to be split."""

    shown: str
    """Where they are, for messages."""
    files: list[File]


class Holder(NamedTuple):
    """How images are got out of files. Both functions are a module's own, so that processes can hand them on."""

    contents: Callable[[File], list[Found]]
    """The images in a file, not yet checked."""
    open: Callable[[Place], IO[bytes] | str]
    """The bytes of one: a stream, or the path of the file that is the image."""


def collect(
    config: ImagesConfig, sides: Sequence[Side], holder: Holder, notices: Sequence[str], cache: Cache | None
) -> Images:
    """Checks images, splits them where there is one side only, and makes the two sets; skips what is not usable.

    Args:
        config: how they are split and cut.
        sides: training and validation images, or what is to be split.
        holder: how to get at them.
        notices: what is already known and was said about them.
        cache: keeps the index of many images; None: they are checked at every start.

    Raises:
        UserError: too few images, or more than `BAD_SHARE` of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    raise_limit(config.max_pixels)
    checked = _check_sides(config, sides, holder, cache)
    total = sum(map(len, checked))
    bad = [image for images in checked for image in images if image.problem]
    _report_bad(bad, total)
    good = [[image for image in images if not image.problem] for images in checked]
    notices = [*notices, *_report_converted([image for images in good for image in images if image.converted])]
    for side, images in zip(sides, good, strict=True):
        if not images:
            raise UserError(
                f"images.path: {printable(side.shown)} holds no usable image; replace its files: {_count(bad)}"
            )
    if config.source == "folder":
        good = by_folders(good)
    if len(good) == 1:
        good = _split(good[0], config)
    annotations, said = annotate(good)
    for notice in said:
        warnings.warn(notice, Notice, stacklevel=4)
    notices += said

    limits = (config.train_images, config.val_images)
    chosen = [subset(len(images), limit, config.seed) for images, limit in zip(good, limits, strict=True)]
    shares = [[images[item] for item in items] for images, items in zip(good, chosen, strict=True)]
    notices += report_shared(*([Portrait(one.name, one.identity, one.look) for one in share] for share in shares))

    def build(share: list[Found], items: np.ndarray, training: bool, own: Annotations) -> CropSet:
        places = {item: image.place for item, image in zip(items.tolist(), share, strict=True)}
        content = (piece for image in share for piece in (encoded(image.name), image.identity))
        return CropSet(partial(_read, holder.open, places), items, config, training, content, THREADS, own)

    skipped = tuple(f"{image.shown}: {image.problem}" for image in bad)
    annotations = [own.taken(items) for own, items in zip(annotations, chosen, strict=True)]
    train, val = (build(*side) for side in zip(shares, chosen, (True, False), annotations, strict=True))
    return Images(train, val, skipped, tuple(notices), annotations[0].label_names)


def _read(
    stream: Callable[[Place], IO[bytes] | str],
    places: dict[int, Place],
    item: int,
    generator: np.random.Generator,
    least: int,
) -> Image.Image | Reduced:
    place = places[item]
    return decode(partial(stream, place), place.path if place.at < 0 else f"{place.path} at {place.at}", least)


def _check_sides(config: ImagesConfig, sides: Sequence[Side], holder: Holder, cache: Cache | None) -> list[list[Found]]:
    """All images of each side, checked; those of an index only where their files changed."""
    sampling = (SAMPLE_FILES, SAMPLE_BYTES, HEAD_BYTES)
    index = Index(cache, (config.source, config.keys, config.max_pixels, sampling, *(side.shown for side in sides)))
    files = [side.files for side in sides]
    contents = partial(_contents, holder)
    held = index.look_up(files, contents)
    check = partial(_check, holder, config.max_pixels)
    if sum(len(images) for side in held for _, images in side) <= FULL_CHECK_FILES:
        return [check(images, [WHOLE] * len(images)) for images in map(_flat, held)]
    if index.is_whole:
        return [_flat(side) for side in held]
    with index.held():
        # Another process may just have written it.
        held = index.look_up(files, contents)
        done = [iter(check(images, _depths(images))) for images in map(_flat, held)]
        held = [
            [(file, [next(images) for _ in before]) for file, before in side]
            for side, images in zip(held, done, strict=True)
        ]
        index.write(held)
    return [_flat(side) for side in held]


def _contents(holder: Holder, file: File) -> list[Found]:
    try:
        return holder.contents(file)
    except OSError as error:
        if will_pass(error):
            raise
        raise UserError(
            f"images.path: {printable(file.path)} cannot be read ({one_line(error)}); replace it, or let this user "
            "read it"
        ) from None


def _flat(held: Held) -> list[Found]:
    return [image for _, images in held for image in images]


def _depths(images: list[Found]) -> list[int]:
    """How each of many is to be checked: a sample by their names, so that every copy of them has the same."""
    ranks = [(_name_hash(image), number) for number, image in enumerate(images)]
    sample = {number for _, number in heapq.nsmallest(SAMPLE_FILES, ranks)}
    return [SAMPLED if number in sample else HEAD for number in range(len(images))]


def _check(holder: Holder, limit: int, images: list[Found], depths: list[int]) -> list[Found]:
    """`images`, those that were not yet checked to their depth checked now."""
    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        # PIL's own remarks (odd EXIF, very large pictures) would come once per file.
        warnings.simplefilter("ignore")
        check = partial(_check_image, holder, limit)
        # In slices, because a pool makes an object for every task it is given.
        slices = (slice(start, start + 4096) for start in range(0, len(images), 4096))
        done = (image for part in slices for image in pool.map(check, images[part], depths[part]))
        return list(_progress(done, len(images)))


def _progress(done: Iterable[Found], total: int) -> Iterable[Found]:
    """`done` behind a progress bar, where there is someone to watch it and it takes a while."""
    if total <= 2000 or not sys.stderr.isatty():
        return done
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return done
    return track(done, "Checking images", total, console=Console(stderr=True))


def _check_image(holder: Holder, limit: int, image: Found, depth: int) -> Found:
    """Returns `image` with its identity, or the problem that keeps it out."""
    if image.problem or image.depth == depth:
        return image
    try:
        stream = holder.open(image.place)
        with open(stream, "rb") if isinstance(stream, str) else stream as content:
            seen = examine(content, depth == WHOLE, depth == SAMPLED, limit)
    except OSError as error:
        if will_pass(error):
            raise
        seen = Seen("unreadable")
    return image._replace(depth=depth, **seen._asdict())


def _name_hash(image: Found) -> bytes:
    return hashlib.sha256(encoded(image.name)).digest()


def _report_converted(converted: list[Found]) -> list[str]:
    """One warning about images that were no 8-bit RGB and whose colours may not be what others make of them."""
    if not converted:
        return []
    kinds = Counter(image.converted for image in converted)
    text = f"{OF_IMAGES}converted to 8-bit RGB: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())} images"
    text += f", such as {printable(converted[0].shown)}"
    warnings.warn(text, Notice, stacklevel=5)
    return [text]


def _report_bad(bad: list[Found], total: int) -> None:
    """One warning about the images left out, or UserError if they are more than `BAD_SHARE` of `total`."""
    if not bad:
        return
    counts = _count(bad)
    names = ", ".join(f"{printable(image.shown)} ({image.problem})" for image in bad[:3]) + (
        ", ..." if len(bad) > 3 else ""
    )
    if len(bad) > BAD_SHARE * total:
        raise UserError(
            f"images.path: {len(bad)} of {total} files are not usable ({counts}), more than {BAD_SHARE:.0%}; "
            f"replace them, or move them elsewhere: {names}"
        )
    warnings.warn(f"{OF_IMAGES}skipped {len(bad)} of {total} image files ({counts}): {names}", Notice, stacklevel=5)


def _count(bad: list[Found]) -> str:
    return ", ".join(f"{count} {problem}" for problem, count in Counter(image.problem for image in bad).most_common())


def _split(images: list[Found], config: ImagesConfig) -> list[list[Found]]:
    if len(images) < 2:
        raise UserError(f"images.path: {printable(config.path)} holds 1 usable image; training and validation need 2")
    count = min(max(1, round(config.val_fraction * len(images))), len(images) - 1)
    ranked = sorted(range(len(images)), key=lambda number: _name_hash(images[number]))
    return [[images[number] for number in sorted(part)] for part in (ranked[count:], ranked[:count])]

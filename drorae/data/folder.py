"""Images in folders.

The files are checked before anything is trained: up to `FULL_CHECK_FILES` files are decoded completely and hashed; of
more, only the beginnings are read and a sample is hashed, and a truncated file shows itself when it is first decoded.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images, subset
from drorae.data.duplicates import READ_SIDE, Portrait, perceptual_hash, report_shared
from drorae.data.splits import Role, by_role
from drorae.errors import OF_IMAGES, Notice, UserError, one_line, printable
from drorae.storage.remote import expanded

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "PCX", "SGI", "QOI")
"""What Pillow may open: formats of photographs that it decodes by itself, and runs no other program for."""
EXTENSIONS = tuple(sorted(name for name, kind in Image.registered_extensions().items() if kind in FORMATS))
NO_PHOTOGRAPHS = (
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "#snapshot", "system volume information",
    "lost+found", "thumbs", "thumbnails", "_thumbs",
)  # fmt: skip
"""Folders, in small letters, that systems and viewers put beside photographs."""
LONGEST = 32
"""Times its shorter side: an image that is longer shows nothing in a square."""
FULL_CHECK_FILES = 20_000
SAMPLE_FILES = 2000
"""Of more files than are hashed completely, so many of each folder are."""
HEAD_BYTES = 4096
"""Of the others, the beginning: reading the header has fetched it."""
SAMPLE_BYTES = 2**21
"""Of a longer file in the sample, both ends are hashed, together so many bytes."""
BAD_SHARE = 0.05
THREADS = min(8, max(2, os.cpu_count() or 1))
"""Files read at once."""


@dataclass(frozen=True, order=True)
class _ImageFile:
    name: str
    """Path below its root, with forward slashes."""
    path: str
    problem: str = ""
    identity: bytes = b""
    """Size, and hash of the content or of a part of it."""
    converted: str = ""
    """What it was before it became 8-bit RGB, where that is worth a notice."""
    look: bytes = b""
    """Its perceptual hash, where it was decoded."""


class _Listing(NamedTuple):
    """The files below a folder."""

    files: list[_ImageFile]
    ignored: Counter[str]
    """Numbers of other files, by extension."""


def load_folder(config: ImagesConfig) -> Images:
    """Opens the images in folders; skips the files that are not usable, with one warning.

    Raises:
        UserError: no such folder, too few images, or more than `BAD_SHARE` of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    roots, notices = _roots(config)
    listings = [_list_files(root, config) for root in roots]
    for root, listing in zip(roots, listings, strict=True):
        if not listing.files:
            raise UserError(
                f"images.path: no images in {printable(root)}; looked in it and all folders below for "
                f"{', '.join(FORMATS)} files by extension (hidden ones apart){_found_instead(listing.ignored)}"
            )
    notices += _report_ignored(listings)
    listed = [listing.files for listing in listings]
    total = sum(map(len, listed))
    if config.max_pixels > 2 * (Image.MAX_IMAGE_PIXELS or config.max_pixels):
        # For the whole process: Pillow has no other way. It refuses twice its limit.
        Image.MAX_IMAGE_PIXELS = -(-config.max_pixels // 2)
    check = partial(_check_files, full=total <= FULL_CHECK_FILES, limit=config.max_pixels)
    checked = [list(check(files)) for files in listed]
    bad = [file for files in checked for file in files if file.problem]
    _report_bad(bad, total)
    good = [[file for file in files if not file.problem] for files in checked]
    notices += _report_converted([file for files in good for file in files])
    for root, files in zip(roots, good, strict=True):
        if not files:
            raise UserError(f"images.path: {printable(root)} holds no usable image; replace its files: {_count(bad)}")
    if len(good) == 1:
        good = _split(good[0], config)

    limits = (config.train_images, config.val_images)
    chosen = [subset(len(files), limit, config.seed) for files, limit in zip(good, limits, strict=True)]
    sides = [[files[item] for item in items] for files, items in zip(good, chosen, strict=True)]
    notices += report_shared(*([_portrait(file) for file in side] for side in sides))

    def build(files: list[_ImageFile], items: np.ndarray, training: bool) -> CropSet:
        paths = {item: files[item].path for item in items.tolist()}
        content = (piece for item in items for piece in (os.fsencode(files[item].name), files[item].identity))
        return CropSet(partial(_read_file, paths), items, config, training, content, THREADS)

    skipped = tuple(f"{file.path}: {file.problem}" for file in bad)
    train, val = (build(*side) for side in zip(good, chosen, (True, False), strict=True))
    return Images(train, val, skipped, tuple(notices))


def _portrait(file: _ImageFile) -> Portrait:
    return Portrait(file.name, file.identity, file.look)


def _roots(config: ImagesConfig) -> tuple[list[str], list[str]]:
    """The training and the validation folder, or the one folder to be split, and what is to be known about them."""
    given = [expanded(path) for path in (config.path, config.val_path) if path]
    for name, folder in zip(("path", "val_path"), given, strict=False):
        if not folder.is_dir():
            state = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"images.{name}: {printable(str(folder))} {state}; name a folder of images")
    roots, notices = given, list[str]()
    if config.split == "auto":
        splits = [_named_splits(folder) for folder in given]
        if len(given) == 1 and splits[0]:
            roots, notices = _by_name(given[0], splits[0])
        for name, folder, found in zip(("path", "val_path"), given, splits, strict=False):
            if len(given) == 2 and found.keys() - {"train"}:
                names = [split for role in found.values() for split in role]
                raise UserError(
                    f"images.{name}: {printable(str(folder))} has {' and '.join(names)} folders of its own; "
                    f"leave val_path empty, or set images.{name} to {printable(str(folder / names[0]))}"
                )
    if len(roots) == 2:
        first, second = (folder.resolve() for folder in roots)
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise UserError(
                f"images.val_path: {printable(str(roots[1]))} and {printable(str(roots[0]))} share images; "
                "name two folders of which neither holds the other"
            )
    return [str(folder) for folder in roots], notices


def _is_visible(folder: str) -> bool:
    return not folder.startswith(".") and folder.lower() not in NO_PHOTOGRAPHS


def _named_splits(folder: Path) -> dict[Role, list[str]]:
    """Names of the folders in `folder` that are a split's, by what it is for."""
    return by_role(sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_visible(path.name)))


def _by_name(root: Path, found: dict[Role, list[str]]) -> tuple[list[Path], list[str]]:
    """The folders of a root's own split, and what it has beside them; the root itself if only `train` is there.

    Raises:
        UserError: the names do not tell which folder is for what.
    """
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and _is_visible(path.name))
    train, measured = found.get("train", []), found.get("val") or found.get("test", [])
    if len(train) == 1 and len(measured) == 1 and "other" not in found:
        left = [name for name in names if name not in (*train, *measured)]
        notices = [f"{OF_IMAGES}{printable(str(root))}: trained on {train[0]}, measured on {measured[0]}"]
        if left:
            notices[0] += f"; left out: {', '.join(map(printable, left))}"
        if left or measured != found.get("val"):
            warnings.warn(notices[0], Notice, stacklevel=5)
        return [root / train[0], root / measured[0]], notices
    if names == train and len(train) == 1:
        return [root], []
    some = ", ".join(printable(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")
    raise UserError(
        f"images.path: {printable(str(root))} holds the folders {some}, of which the split is not clear; set "
        "images.path to the one to train on and images.val_path to the one to measure on, or images.split=pooled to "
        "mix them all"
    )


def _list_files(root: str, config: ImagesConfig) -> _Listing:
    """Files with an image's extension below `root`, sorted by name; links are followed, each folder once."""
    files: list[_ImageFile] = []
    ignored: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(filter(_is_visible, below))
        if config.split == "auto" and folder != root:
            _refuse_nested(folder, by_role(below))
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                path = os.path.join(folder, name)
                files.append(_ImageFile(os.path.relpath(path, root).replace(os.sep, "/"), path))
            else:
                ignored[os.path.splitext(name)[1].lower() or "no extension"] += 1
    return _Listing(sorted(files), ignored)


def _refuse_nested(folder: str, found: dict[Role, list[str]]) -> None:
    """Raises UserError where a folder deeper down holds a split of its own, which would be mixed."""
    if "train" in found and found.keys() & {"val", "test"}:
        names = " and ".join(printable(name) for names in found.values() for name in names)
        raise UserError(
            f"images.path: {printable(folder)} holds a split of its own ({names}); set images.path to that folder, or "
            "images.split=pooled to mix what it holds"
        )


def _found_instead(ignored: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in ignored.most_common(5))
    return f"; found {kinds}" if kinds else ""


def _report_ignored(listings: list[_Listing]) -> list[str]:
    """One warning about files that were not looked at for their extension."""
    ignored = sum((listing.ignored for listing in listings), Counter[str]())
    if not ignored:
        return []
    files = sum(len(listing.files) for listing in listings)
    text = (
        f"{OF_IMAGES}{ignored.total()} of {files + ignored.total()} files were not looked at because of their extension"
        f"{_found_instead(ignored)}"
    )
    warnings.warn(text, Notice, stacklevel=4)
    return [text]


def _report_converted(files: list[_ImageFile]) -> list[str]:
    """One warning about images that were no 8-bit RGB and whose colours may not be what others make of them."""
    converted = [file for file in files if file.converted]
    if not converted:
        return []
    kinds = Counter(file.converted for file in converted)
    text = f"{OF_IMAGES}converted to 8-bit RGB: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())} images"
    text += f", such as {printable(converted[0].path)}"
    warnings.warn(text, Notice, stacklevel=4)
    return [text]


def _check_files(files: list[_ImageFile], full: bool, limit: int) -> Iterator[_ImageFile]:
    # By their names, so that every copy of the folder has the same.
    sample = set() if full else {file.name for file in heapq.nsmallest(SAMPLE_FILES, files, key=_name_hash)}
    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        # PIL's own remarks (odd EXIF, very large pictures) would come once per file.
        warnings.simplefilter("ignore")
        # In slices, because a pool makes an object for every task it is given.
        slices = (files[start : start + 4096] for start in range(0, len(files), 4096))
        check = partial(_check_file, full=full, sample=sample, limit=limit)
        yield from _progress((done for part in slices for done in pool.map(check, part)), len(files))


def _progress(done: Iterable[_ImageFile], total: int) -> Iterable[_ImageFile]:
    """`done` behind a progress bar, where there is someone to watch it and it takes a while."""
    if total <= 2000 or not sys.stderr.isatty():
        return done
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return done
    return track(done, "Checking images", total, console=Console(stderr=True))


def _check_file(file: _ImageFile, full: bool, sample: Set[str], limit: int) -> _ImageFile:
    """Returns `file` with its identity, or the problem that keeps it out; decoded and hashed whole where `full`."""
    try:
        size = os.stat(file.path).st_size
        if not size:
            return replace(file, problem="zero-byte")
        with open(file.path, "rb") as stream:
            content = stream.read() if full else _part(stream, size, file.name in sample)
            stream.seek(0)
            file = _look_at(file, io.BytesIO(content) if full else stream, full, limit)
    except OSError as error:
        if _will_pass(error):
            raise
        return replace(file, problem="unreadable")
    return replace(file, identity=size.to_bytes(8, "little") + hashlib.sha256(content).digest())


def _will_pass(error: Exception) -> bool:
    """Whether an error tells of the machine, not of the file: without it the set would be another from day to day."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
        return True
    # Pillow's decoders have an OSError of their own for memory that ran out.
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _part(stream: IO[bytes], size: int, sampled: bool) -> bytes:
    """What of a file stands for all of it: both ends if it is `sampled` (all of a short one), else its beginning."""
    if not sampled:
        return stream.read(HEAD_BYTES)
    head = stream.read(SAMPLE_BYTES // 2)
    stream.seek(max(len(head), size - SAMPLE_BYTES // 2))
    return head + stream.read()


def _name_hash(file: _ImageFile) -> bytes:
    return hashlib.sha256(os.fsencode(file.name)).digest()


def _look_at(file: _ImageFile, stream: IO[bytes], decode: bool, limit: int) -> _ImageFile:
    """Returns `file` with what the image in `stream` is: its problem, or its conversion and, decoded, its look."""
    header = stream.read(26)
    stream.seek(0)
    reason = "unreadable"
    # Decoders of broken files raise whatever they stumble over: OSError, SyntaxError, ValueError, zlib.error ...
    try:
        image = Image.open(stream, formats=FORMATS)
        if problem := _wrong_kind(image, limit):
            return replace(file, problem=problem)
        file = replace(file, converted=_unusual_kind(image, header))
        if not decode:
            return file
        reason = "truncated"
        # Reads every byte of a JPEG but computes an eighth of its side, or what a hash needs.
        image.draft(None, (READ_SIDE, READ_SIDE))
        image.load()
        reason = "unreadable"
        return replace(file, look=perceptual_hash(_upright_rgb(image)))
    except Image.DecompressionBombError:
        return replace(file, problem=_too_large(limit))
    except Exception as error:
        if _will_pass(error):
            raise
        return replace(file, problem=reason, converted="")


def _too_large(limit: int) -> str:
    return f"over {limit} pixels, which images.max_pixels raises"


def _wrong_kind(image: Image.Image, limit: int) -> str:
    """Returns what kind of image this is that cannot be used; empty if it can."""
    if image.width * image.height > limit:
        return _too_large(limit)
    # A JPEG with several pictures (MPO, as phones write them) is no animation: the first one is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "of several pages" if image.format == "TIFF" else "animated"
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        return "of 32 bits and unknown range"
    if min(image.size) == 1:
        return "one pixel wide"
    return f"over {LONGEST} times as long as wide" if max(image.size) > LONGEST * min(image.size) else ""


def _unusual_kind(image: Image.Image, header: bytes) -> str:
    """Returns what an image is that others may convert in another way; empty for an ordinary one."""
    # PIL opens 16-bit colour PNGs as 8-bit RGB; the depth stands in byte 24 of the file.
    if image.mode.startswith("I") or (image.format == "PNG" and header[24:25] == b"\x10"):
        return "16-bit"
    return "CMYK" if image.mode == "CMYK" else ""


def _report_bad(bad: list[_ImageFile], total: int) -> None:
    """One warning about the files left out, or UserError if they are more than `BAD_SHARE` of `total`."""
    if not bad:
        return
    counts = _count(bad)
    names = ", ".join(f"{printable(file.path)} ({file.problem})" for file in bad[:3]) + (
        ", ..." if len(bad) > 3 else ""
    )
    if len(bad) > BAD_SHARE * total:
        raise UserError(
            f"images.path: {len(bad)} of {total} files are not usable ({counts}), more than {BAD_SHARE:.0%}; "
            f"replace them, or move them elsewhere: {names}"
        )
    warnings.warn(f"{OF_IMAGES}skipped {len(bad)} of {total} image files ({counts}): {names}", Notice, stacklevel=4)


def _count(bad: list[_ImageFile]) -> str:
    return ", ".join(f"{count} {problem}" for problem, count in Counter(file.problem for file in bad).most_common())


def _split(files: list[_ImageFile], config: ImagesConfig) -> list[list[_ImageFile]]:
    if len(files) < 2:
        raise UserError(f"images.path: {printable(config.path)} holds 1 usable image; training and validation need 2")
    count = min(max(1, round(config.val_fraction * len(files))), len(files) - 1)
    ranked = sorted(files, key=_name_hash)
    return [sorted(ranked[count:]), sorted(ranked[:count])]


def _read_file(paths: dict[int, str], item: int, generator: np.random.Generator) -> Image.Image:
    try:
        with Image.open(paths[item], formats=FORMATS) as file:
            return _upright_rgb(file)
    except Exception as error:
        if _will_pass(error):
            raise
        raise UserError(
            f"{printable(paths[item])}: cannot be decoded any more ({one_line(error)}); "
            "replace the file, or move it elsewhere, and start again"
        ) from None


def _upright_rgb(file: Image.Image) -> Image.Image:
    image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        # The upper byte, as Pillow takes it of 16-bit colour.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

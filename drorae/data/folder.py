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
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images, subset
from drorae.errors import OF_IMAGES, Notice, UserError, one_line, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What a file of these names may hold for Pillow to open it."""
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


def load_folder(config: ImagesConfig) -> Images:
    """Opens the images in folders; skips the files that are not usable, with one warning.

    Raises:
        UserError: no such folder, too few images, or more than `BAD_SHARE` of them unusable.
        OSError, MemoryError: the machine cannot read them just now.
    """
    roots = _roots(config)
    listed = [_list_files(root) for root in roots]
    total = sum(map(len, listed))
    for root, files in zip(roots, listed, strict=True):
        if not files:
            raise UserError(
                f"images.path: no images in {printable(root)}; looked in it and all folders below for "
                f"{', '.join(EXTENSIONS)} files (hidden ones apart)"
            )
    checked = [list(_check_files(files, full=total <= FULL_CHECK_FILES)) for files in listed]
    bad = [file for files in checked for file in files if file.problem]
    _report_bad(bad, total)
    good = [[file for file in files if not file.problem] for files in checked]
    for root, files in zip(roots, good, strict=True):
        if not files:
            raise UserError(f"images.path: {printable(root)} holds no usable image; replace its files: {_count(bad)}")
    if len(good) == 1:
        good = _split(good[0], config)

    def build(files: list[_ImageFile], limit: int, training: bool) -> CropSet:
        items = subset(len(files), limit, config.seed)
        chosen = {item: files[item].path for item in items.tolist()}
        content = (piece for item in items for piece in (os.fsencode(files[item].name), files[item].identity))
        return CropSet(partial(_read_file, chosen), items, config, training, content, THREADS)

    skipped = tuple(f"{file.path}: {file.problem}" for file in bad)
    return Images(build(good[0], config.train_images, True), build(good[1], config.val_images, False), skipped)


def _roots(config: ImagesConfig) -> list[str]:
    """The training and the validation folder, or the one folder to be split."""
    root = Path(config.path)
    train, val = root / "train", root / "val"
    if train.is_dir() and val.is_dir():
        if config.val_path:
            raise UserError(
                f"images.val_path: {printable(config.path)} has train and val folders of its own; "
                f"leave val_path empty, or set images.path to {printable(str(train))}"
            )
        roots = [train, val]
    else:
        roots = [root, Path(config.val_path)] if config.val_path else [root]
    for name, folder in zip(("path", "val_path"), roots, strict=False):
        if not folder.is_dir():
            state = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"images.{name}: {printable(str(folder))} {state}; name a folder of images")
    if len(roots) == 2:
        first, second = (folder.resolve() for folder in roots)
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise UserError(
                f"images.val_path: {printable(str(roots[1]))} and {printable(str(roots[0]))} share images; "
                "name two folders of which neither holds the other"
            )
    return [str(folder) for folder in roots]


def _list_files(root: str) -> list[_ImageFile]:
    """Files with an image's extension below `root`, sorted by name; links are followed, each folder once."""
    files: list[_ImageFile] = []
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                path = os.path.join(folder, name)
                files.append(_ImageFile(os.path.relpath(path, root).replace(os.sep, "/"), path))
    return sorted(files)


def _check_files(files: list[_ImageFile], full: bool) -> Iterator[_ImageFile]:
    # By their names, so that every copy of the folder has the same.
    sample = set() if full else {file.name for file in heapq.nsmallest(SAMPLE_FILES, files, key=_name_hash)}
    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        # PIL's own remarks (odd EXIF, very large pictures) would come once per file.
        warnings.simplefilter("ignore")
        # In slices, because a pool makes an object for every task it is given.
        slices = (files[start : start + 4096] for start in range(0, len(files), 4096))
        check = partial(_check_file, full=full, sample=sample)
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


def _check_file(file: _ImageFile, full: bool, sample: Set[str]) -> _ImageFile:
    """Returns `file` with its identity, or the problem that keeps it out; decoded and hashed whole where `full`."""
    try:
        size = os.stat(file.path).st_size
        if not size:
            return replace(file, problem="zero-byte")
        with open(file.path, "rb") as stream:
            content = stream.read() if full else _part(stream, size, file.name in sample)
            stream.seek(0)
            problem = _problem(io.BytesIO(content) if full else stream, decode=full)
    except OSError as error:
        if _will_pass(error):
            raise
        return replace(file, problem="unreadable")
    return replace(file, problem=problem, identity=size.to_bytes(8, "little") + hashlib.sha256(content).digest())


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


def _problem(stream: IO[bytes], decode: bool) -> str:
    """Returns why the image in `stream` cannot be used; empty if it can."""
    header = stream.read(26)
    stream.seek(0)
    reason = "unreadable"
    # Decoders of broken files raise whatever they stumble over: OSError, SyntaxError, ValueError, zlib.error ...
    try:
        image = Image.open(stream, formats=FORMATS)
        kind = _wrong_kind(image, header)
        if kind or not decode:
            return kind
        reason = "truncated"
        # Reads every byte of a JPEG but computes an eighth of its side.
        image.draft(None, (1, 1))
        image.load()
        reason = "unreadable"
        _upright_rgb(image)
    except Exception as error:
        if _will_pass(error):
            raise
        return reason
    return ""


def _wrong_kind(image: Image.Image, header: bytes) -> str:
    """Returns what kind of image this is that cannot be used; empty if it can."""
    # A JPEG with several pictures (MPO, as phones write them) is no animation: the first one is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "animated"
    if image.mode == "CMYK":
        return "CMYK"
    # PIL opens 16-bit colour PNGs as 8-bit RGB; the depth stands in byte 24 of the file.
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and header[24:25] == b"\x10"):
        return "16-bit"
    return "one pixel wide" if min(image.size) == 1 else ""


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
    image = ImageOps.exif_transpose(file)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

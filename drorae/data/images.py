"""Image sources, the one training crop and the one evaluation crop.

`load_images` turns an `ImagesConfig` into a training and a validation set; both hand out uint8 RGB crops of
`size` pixels a side, decoded when asked for. A training crop depends only on (seed, image, view); a validation
crop is always the centre crop.

A folder's files are checked before anything is trained: up to `FULL_CHECK_FILES` files are decoded completely
and hashed; of more, only the beginnings are read and a sample is hashed, and a truncated file shows itself when it
is first decoded.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import io
import json
import os
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, ImageOps

from drorae.config import ImagesConfig
from drorae.data.photos import read_photos, split_photo
from drorae.errors import UserError, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
FULL_CHECK_FILES = 20_000
SAMPLE_FILES = 2000
"""Of more files than are hashed completely, so many of each folder are."""
HEAD_BYTES = 4096
"""Of the others, the beginning: reading the header has fetched it."""
SAMPLE_BYTES = 2**21
"""Of a longer file in the sample, both ends are hashed, together so many bytes."""
BAD_SHARE = 0.05
PHOTO_TRAIN_CROPS, PHOTO_VAL_CROPS = 3000, 1500
PHOTO_LARGEST_SCALE = 8
# Raise it when a crop or the layout of the photographs changes, so that caches made before are not taken for new.
_CROP_VERSION = 1


class ImageSet(Protocol):
    """An ordered set of images that hands out crops."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the content and of every setting that the crops depend on."""
        ...

    def __len__(self) -> int: ...

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        """Crops as uint8 RGB [len(indices), size, size, 3]. Validation sets ignore `view`."""
        ...


@dataclass(frozen=True)
class Images:
    """Training and validation images, and what was left out."""

    train: ImageSet
    val: ImageSet
    skipped: tuple[str, ...] = ()
    """`path: reason` of every file that was not usable."""


def train_crop(image: Image.Image | np.ndarray, size: int, resize: int, generator: np.random.Generator) -> np.ndarray:
    """The training crop: shorter side to `resize` (0: `size`) by bicubic, then a uniformly placed square.

    RAE's recipe (arXiv 2510.11690, published code): Resize(384) and RandomCrop(256), without a flip.

    Args:
        image: RGB, of any size; arrays are uint8 [H, W, 3].

    Returns:
        uint8 [size, size, 3].
    """
    picture = _as_picture(image)
    target = resize or size
    shorter = min(picture.size)
    if shorter != target:
        width, height = (side * target // shorter for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (int(generator.integers(side - size + 1)) for side in picture.size)
    return np.array(picture.crop((left, top, left + size, top + size)))


def centre_crop(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """The evaluation crop of ADM (arXiv 2105.05233, published code): halve with a box filter while the shorter
    side is at least twice `size`, take it to `size` by bicubic, cut out the centre.

    Args:
        image: RGB, of any size; arrays are uint8 [H, W, 3].

    Returns:
        uint8 [size, size, 3].
    """
    picture = _as_picture(image)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    shorter = min(picture.size)
    if shorter != size:
        # Scale first, then round: ADM's order, which decides ties as ADM does.
        width, height = (round(side * (size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    return np.array(picture.crop((left, top, left + size, top + size)))


def evaluation_crop(size: int) -> str:
    """How `centre_crop` cuts, in words that statistics of its crops carry: equal words, equal cut."""
    return f"ADM centre crop {size} px, version {_CROP_VERSION}"


def load_images(config: ImagesConfig) -> Images:
    """Opens the images that `config` names.

    photos: crops of the photographs in scikit-image and scikit-learn, at log-uniform scales of one to
    `PHOTO_LARGEST_SCALE` pixels per pixel, training and validation from disjoint parts of every photograph.
    `train_images` and `val_images` say how many crops.

    folder: every JPEG, PNG and WebP below `path`, hidden files apart. EXIF orientation is applied, greyscale
    and palettes become RGB, transparency is laid on white. `train` and `val` folders in `path` make the split,
    else `val_path`, else the `val_fraction` of the files whose relative paths have the lowest SHA-256. Unusable
    files are skipped with one warning and listed in `Images.skipped`. The fingerprint covers relative path,
    size and content hash; above `FULL_CHECK_FILES` files the content of `SAMPLE_FILES` and the beginnings of the rest.

    npz: arrays `train` and `val`, uint8 [N, H, W, 3].

    Raises:
        UserError: a setting out of range, images missing, too few or of the wrong kind, or more than
            `BAD_SHARE` of a folder unusable.
    """
    _check_settings(config)
    if config.source == "photos":
        return _load_photos(config)
    if not config.path:
        what = "the folder of images" if config.source == "folder" else "the npz file"
        raise UserError(f"images.source={config.source} needs images.path: name {what}")
    return _load_folder(config) if config.source == "folder" else _load_npz(config)


@dataclass(frozen=True)
class _Crops:
    """The image set of every source: `read` opens an item, the crop function does the rest."""

    read: Callable[[int, np.random.Generator], Image.Image | np.ndarray]
    items: np.ndarray
    """Position of each image in its source before a subset was taken; an image keeps its crops in any subset."""
    config: ImagesConfig
    training: bool
    fingerprint: str
    threads: int = 1

    def __len__(self) -> int:
        return len(self.items)

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        """Crops as uint8 RGB [len(indices), size, size, 3]."""
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise IndexError(f"image {wrong[0]} of {len(self)}")
        cut = partial(self._crop, view=view)
        out = np.empty((len(indices), self.config.size, self.config.size, 3), np.uint8)
        if self.threads > 1 and len(indices) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                for row, crop in enumerate(pool.map(cut, indices)):
                    out[row] = crop
        else:
            for row, index in enumerate(indices):
                out[row] = cut(index)
        return out

    def _crop(self, index: int, view: int) -> np.ndarray:
        item = int(self.items[index])
        if not self.training:
            return centre_crop(self.read(item, np.random.default_rng([self.config.seed, 1, item])), self.config.size)
        generator = np.random.default_rng([self.config.seed, 0, item, view])
        return train_crop(self.read(item, generator), self.config.size, self.config.resize, generator)


def _crop_set(
    read: Callable[[int, np.random.Generator], Image.Image | np.ndarray],
    items: np.ndarray,
    config: ImagesConfig,
    training: bool,
    content: Iterable[bytes],
    threads: int = 1,
) -> _Crops:
    """The set with its fingerprint: the crop's settings, the items taken, and `content`, piece by piece."""
    settings: dict[str, object] = {"crop": "train" if training else "centre", "size": config.size}
    if training:
        settings |= {"resize": config.resize or config.size, "views": config.views}
    if training or config.source == "photos":
        settings["seed"] = config.seed
    settings |= {"version": _CROP_VERSION, "source": config.source}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(items.astype("<i8").tobytes())
    for piece in content:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return _Crops(read, items, config, training, digest.hexdigest(), threads)


def _check_settings(config: ImagesConfig) -> None:
    if config.size < 1:
        raise UserError(f"images.size: {config.size} is no side of a crop; give 1 pixel or more")
    if config.resize and config.resize < config.size:
        raise UserError(
            f"images.resize: a crop of {config.size} does not fit into a shorter side of {config.resize}; "
            f"give 0 or at least {config.size}"
        )
    for name in ("train_images", "val_images", "views", "seed"):
        if getattr(config, name) < 0:
            raise UserError(f"images.{name}: {getattr(config, name)} is negative; give 0 or more")
    if not 0 < config.val_fraction < 1:
        raise UserError(f"images.val_fraction: {config.val_fraction} is no share; give a number between 0 and 1")


def _as_picture(image: Image.Image | np.ndarray) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _subset(count: int, limit: int, seed: int) -> np.ndarray:
    """At most `limit` (0: all) of `count` positions, ascending; a smaller limit takes a part of a larger one's."""
    if not limit or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


# Photographs


def _load_photos(config: ImagesConfig) -> Images:
    pairs = [split_photo(pixels) for pixels in read_photos()]
    # Both parts or none, so that training and validation show the same photographs.
    fitting = [pair for pair in pairs if min(side for part in pair for side in part.shape[:2]) >= config.size]
    if not fitting:
        largest = max(min(side for part in pair for side in part.shape[:2]) for pair in pairs)
        raise UserError(
            f"images.size: {config.size} is too large for the bundled photographs; "
            f"give at most {largest}, or choose images.source=folder or npz"
        )

    def build(parts: list[np.ndarray], count: int, training: bool) -> _Crops:
        content = (item for part in parts for item in (str(part.shape).encode(), part.tobytes()))
        return _crop_set(partial(_cut_photo, parts, config.size), np.arange(count), config, training, content)

    return Images(
        build([train for train, _ in fitting], config.train_images or PHOTO_TRAIN_CROPS, True),
        build([val for _, val in fitting], config.val_images or PHOTO_VAL_CROPS, False),
    )


def _cut_photo(parts: list[np.ndarray], size: int, item: int, generator: np.random.Generator) -> np.ndarray:
    """A square of log-uniform side anywhere in the part that `item` falls on; parts are taken in turn."""
    part = parts[item % len(parts)]
    largest = min(PHOTO_LARGEST_SCALE * size, *part.shape[:2])
    side = min(largest, round(size * (largest / size) ** generator.random()))
    top, left = (int(generator.integers(extent - side + 1)) for extent in part.shape[:2])
    return part[top : top + side, left : left + side]


# Arrays


def _load_npz(config: ImagesConfig) -> Images:
    expected = "expected uint8 arrays named train and val of shape [N, H, W, 3]"
    try:
        archive = np.load(config.path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"images.path: no file {_shown(config.path)}; {expected} in an npz file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"images.path: {_shown(config.path)} is not a readable npz file; {expected}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"images.path: {_shown(config.path)} is a single array; {expected} in an npz file")

    def build(name: str, limit: int) -> _Crops:
        if name not in archive.files:
            found = ", ".join(map(_shown, archive.files)) or "nothing"
            raise UserError(f"images.path: {_shown(config.path)} holds {found}, no {name}; {expected}")
        try:
            array = archive[name]
        except Exception:
            # Broken archives make zipfile, zlib and numpy raise whatever they stumble over.
            raise UserError(
                f"images.path: array {name} of {_shown(config.path)} is damaged or holds Python objects; {expected}"
            ) from None
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
            found = f"{array.dtype} of shape {list(array.shape)}"
            raise UserError(f"images.path: array {name} of {_shown(config.path)} is {found}; {expected}")
        items = _subset(len(array), limit, config.seed)
        chosen = dict(zip(items.tolist(), array[items], strict=True)) if len(items) < len(array) else array
        content = (array[item].tobytes() for item in items)
        content_with_shape = (piece for pieces in ([str(array.shape[1:]).encode()], content) for piece in pieces)
        return _crop_set(partial(_take, chosen), items, config, name == "train", content_with_shape)

    with archive:
        return Images(build("train", config.train_images), build("val", config.val_images))


def _take(arrays: np.ndarray | dict[int, np.ndarray], item: int, generator: np.random.Generator) -> np.ndarray:
    return arrays[item]


# Folders


@dataclass(frozen=True)
class _File:
    name: str
    """Path below its root, with forward slashes."""
    path: str
    problem: str = ""
    identity: bytes = b""
    """Size, and hash of the content or of a part of it."""


def _load_folder(config: ImagesConfig) -> Images:
    roots = _roots(config)
    listed = [_list_files(root) for root in roots]
    total = sum(map(len, listed))
    for root, files in zip(roots, listed, strict=True):
        if not files:
            raise UserError(
                f"images.path: no images in {_shown(root)}; looked in it and all folders below for "
                f"{', '.join(EXTENSIONS)} files (hidden ones apart)"
            )
    checked = [list(_check_files(files, full=total <= FULL_CHECK_FILES)) for files in listed]
    bad = [file for files in checked for file in files if file.problem]
    _report_bad(bad, total)
    good = [[file for file in files if not file.problem] for files in checked]
    for root, files in zip(roots, good, strict=True):
        if not files:
            raise UserError(f"images.path: {_shown(root)} holds no usable image; replace its files: {_count(bad)}")
    if len(good) == 1:
        good = _split(good[0], config)

    def build(files: list[_File], limit: int, training: bool) -> _Crops:
        items = _subset(len(files), limit, config.seed)
        chosen = {item: files[item].path for item in items.tolist()}
        content = (piece for item in items for piece in (os.fsencode(files[item].name), files[item].identity))
        return _crop_set(partial(_read_file, chosen), items, config, training, content, _threads())

    skipped = tuple(f"{file.path}: {file.problem}" for file in bad)
    return Images(build(good[0], config.train_images, True), build(good[1], config.val_images, False), skipped)


def _roots(config: ImagesConfig) -> list[str]:
    """The training and the validation folder, or the one folder to be split."""
    root = Path(config.path)
    train, val = root / "train", root / "val"
    if train.is_dir() and val.is_dir():
        if config.val_path:
            raise UserError(
                f"images.val_path: {_shown(config.path)} has train and val folders of its own; "
                f"leave val_path empty, or set images.path to {_shown(str(train))}"
            )
        roots = [train, val]
    else:
        roots = [root, Path(config.val_path)] if config.val_path else [root]
    for name, folder in zip(("path", "val_path"), roots, strict=False):
        if not folder.is_dir():
            state = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"images.{name}: {_shown(str(folder))} {state}; name a folder of images")
    if len(roots) == 2:
        first, second = (folder.resolve() for folder in roots)
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise UserError(
                f"images.val_path: {_shown(str(roots[1]))} and {_shown(str(roots[0]))} share images; "
                "name two folders of which neither holds the other"
            )
    return [str(folder) for folder in roots]


def _list_files(root: str) -> list[_File]:
    """Files with an image's extension below `root`, sorted by name; links are followed, each folder once."""
    files: list[_File] = []
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
                files.append(_File(os.path.relpath(path, root).replace(os.sep, "/"), path))
    return sorted(files, key=lambda file: file.name)


def _check_files(files: list[_File], full: bool) -> Iterator[_File]:
    sample: set[str] = set()
    if not full:
        # By their names, so that every copy of the folder has the same.
        chosen = heapq.nsmallest(SAMPLE_FILES, files, key=_name_hash)
        sample.update(file.name for file in chosen)

    def check(file: _File) -> _File:
        return _check_file(file, full, file.name in sample)

    with ThreadPoolExecutor(_threads()) as pool, warnings.catch_warnings():
        # PIL's own remarks (odd EXIF, very large pictures) would come once per file.
        warnings.simplefilter("ignore")
        # In slices, because a pool makes an object for every task it is given.
        slices = (files[start : start + 4096] for start in range(0, len(files), 4096))
        yield from _progress((done for part in slices for done in pool.map(check, part)), len(files))


def _progress(done: Iterable[_File], total: int) -> Iterable[_File]:
    """`done` behind a progress bar, where there is someone to watch it and it takes a while."""
    if total <= 2000 or not sys.stderr.isatty():
        return done
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return done
    return track(done, "Checking images", total, console=Console(stderr=True))


def _check_file(file: _File, full: bool, sampled: bool) -> _File:
    """`file` with its identity, or with the problem that keeps it out; decoded and hashed whole where `full`."""
    try:
        size = os.stat(file.path).st_size
        if not size:
            return _File(file.name, file.path, "zero-byte")
        with open(file.path, "rb") as stream:
            content = stream.read() if full else _part(stream, size, sampled)
            stream.seek(0)
            problem = _problem(io.BytesIO(content) if full else stream, decode=full)
    except OSError as error:
        # Those pass, and tell nothing of the file: the set would be another one from day to day.
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
            raise
        return _File(file.name, file.path, "unreadable")
    return _File(file.name, file.path, problem, size.to_bytes(8, "little") + hashlib.sha256(content).digest())


def _part(stream: IO[bytes], size: int, sampled: bool) -> bytes:
    """What of a file stands for all of it: both ends if it is `sampled` (all of a short one), else its beginning."""
    if not sampled:
        return stream.read(HEAD_BYTES)
    head = stream.read(SAMPLE_BYTES // 2)
    stream.seek(max(len(head), size - SAMPLE_BYTES // 2))
    return head + stream.read()


def _name_hash(file: _File) -> bytes:
    return hashlib.sha256(os.fsencode(file.name)).digest()


def _problem(stream: IO[bytes], decode: bool) -> str:
    """Why the image in `stream` cannot be used; empty if it can."""
    header = stream.read(26)
    stream.seek(0)
    # Decoders of broken files raise whatever they stumble over: OSError, SyntaxError, ValueError, zlib.error ...
    try:
        image = Image.open(stream, formats=("JPEG", "PNG", "WEBP", "GIF"))
    except Exception:
        return "unreadable"
    # A JPEG with several pictures (MPO, as phones write them) is no animation: the first one is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "animated"
    if image.mode == "CMYK":
        return "CMYK"
    # PIL opens 16-bit colour PNGs as 8-bit RGB; the depth stands in byte 24 of the file.
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and header[24:25] == b"\x10"):
        return "16-bit"
    if min(image.size) == 1:
        return "one pixel wide"
    if decode:
        try:
            # Reads every byte of a JPEG but computes an eighth of its side.
            image.draft(None, (1, 1))
            image.load()
        except Exception:
            return "truncated"
        try:
            _upright_rgb(image)
        except Exception:
            return "unreadable"
    return ""


def _report_bad(bad: list[_File], total: int) -> None:
    """One warning about the files left out, or UserError if they are more than `BAD_SHARE` of `total`."""
    if not bad:
        return
    counts = _count(bad)
    names = ", ".join(f"{_shown(file.path)} ({file.problem})" for file in bad[:3]) + (", ..." if len(bad) > 3 else "")
    if len(bad) > BAD_SHARE * total:
        raise UserError(
            f"images.path: {len(bad)} of {total} files are not usable ({counts}), more than {BAD_SHARE:.0%}; "
            f"replace or remove them: {names}"
        )
    warnings.warn(f"skipped {len(bad)} of {total} image files ({counts}): {names}", stacklevel=4)


def _count(bad: list[_File]) -> str:
    return ", ".join(f"{count} {problem}" for problem, count in Counter(file.problem for file in bad).most_common())


def _split(files: list[_File], config: ImagesConfig) -> list[list[_File]]:
    if len(files) < 2:
        raise UserError(f"images.path: {_shown(config.path)} holds 1 usable image; training and validation need 2")
    count = min(max(1, round(config.val_fraction * len(files))), len(files) - 1)
    ranked = sorted(files, key=_name_hash)
    return [sorted(part, key=lambda file: file.name) for part in (ranked[count:], ranked[:count])]


def _read_file(paths: dict[int, str], item: int, generator: np.random.Generator) -> Image.Image:
    try:
        with Image.open(paths[item], formats=("JPEG", "PNG", "WEBP", "GIF")) as file:
            return _upright_rgb(file)
    except Exception as error:
        raise UserError(
            f"{_shown(paths[item])}: cannot be decoded any more ({one_line(error)}); "
            "replace or remove the file and start again"
        ) from None


def _upright_rgb(file: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(file)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _threads() -> int:
    return min(8, max(2, os.cpu_count() or 1))


def _shown(name: str) -> str:
    """A name as it can stand in a one-line message."""
    return name if name.isprintable() else ascii(name)

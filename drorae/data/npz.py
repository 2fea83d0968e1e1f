"""Images in an npz archive."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from functools import partial
from itertools import chain

import numpy as np
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images, subset
from drorae.data.duplicates import Portrait, perceptual_hash, report_shared
from drorae.data.splits import by_role
from drorae.errors import OF_IMAGES, Notice, UserError, printable
from drorae.storage.remote import expanded

EXPECTED = "expected uint8 arrays named train and val of shape [N, H, W, 3]"
COMPARED = 20_000
"""Images, above which only equal ones are looked for among both sides, not similar ones."""


def load_npz(config: ImagesConfig) -> Images:
    """Opens an archive with an array of training and one of validation images.

    They are called train and val, or otherwise after a split (x_train, test_images ...), or as `images.keys` says; a
    single one is split by `images.val_fraction`. uint8 [N, H, W, 3] is taken as it is; channels first, grey, floats in
    [0, 1] and wider integers up to 255 are converted, with a notice.

    Raises:
        UserError: there is no such archive, or it holds something else.
    """
    path = printable(config.path)
    try:
        archive = np.load(expanded(config.path), allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"images.path: no file {path}; {EXPECTED} in an npz file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"images.path: {path} is not a readable npz file; {EXPECTED}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"images.path: {path} is a single array; {EXPECTED} in an npz file")
    notices: list[str] = []
    with archive:
        names = _names(archive, config)
        arrays = [_as_rgb(_read(archive, name, path), name, path, notices) for name in names]
    if tuple(names) != ("train", "val"):
        notices.insert(0, f"{OF_IMAGES}{path}: trained on {names[0]}, measured on {names[-1]}")
    for notice in notices:
        warnings.warn(notice, Notice, stacklevel=4)
    places = [np.arange(len(array)) for array in arrays]
    if len(names) == 1:
        names, arrays, places = names * 2, arrays * 2, _split(len(arrays[0]), config)
    compared = sum(map(len, places)) <= COMPARED
    sets: list[CropSet] = []
    portraits: list[list[Portrait]] = []
    for name, array, place, limit in zip(names, arrays, places, (config.train_images, config.val_images), strict=True):
        items = place[subset(len(place), limit, config.seed)]
        chosen = dict(zip(items.tolist(), array[items], strict=True)) if len(items) < len(array) else array
        content = chain([str(array.shape[1:]).encode()], (array[item].tobytes() for item in items))
        sets.append(CropSet(partial(_take, chosen), items, config, not sets, content))
        portraits.append([_portrait(name, array, item, compared) for item in items])
    notices += report_shared(*portraits)
    train, val = sets
    return Images(train, val, notices=tuple(notices))


def _names(archive: np.lib.npyio.NpzFile, config: ImagesConfig) -> list[str]:
    """Names of the training and the validation array, or of the one there is."""
    path, found = printable(config.path), archive.files
    names = list(config.keys) or [name for name in ("train", "val") if name in found]
    if not config.keys and len(names) < 2:
        roles = by_role(found)
        sides = [roles.get("train", []), roles.get("val") or roles.get("test", [])]
        # Labels lie beside the images, under names like theirs.
        sides = [[name for name in side if _read(archive, name, path).ndim >= 3] for side in sides]
        names = [side[0] for side in sides if len(side) == 1]
    if (1 if config.keys else 2) <= len(names) <= 2 and set(names) <= set(found):
        return names
    raise UserError(
        f"images.path: {path} holds {', '.join(map(printable, found)) or 'nothing'}; set images.keys=TRAIN,VAL to the "
        f"names of two of them, or to one that is to be split; {EXPECTED}"
    )


def _read(archive: np.lib.npyio.NpzFile, name: str, path: str) -> np.ndarray:
    try:
        array: np.ndarray = archive[name]
    except MemoryError:
        raise
    except Exception:
        # Broken archives make zipfile, zlib and numpy raise whatever they stumble over.
        raise UserError(f"images.path: array {name} of {path} is damaged or holds Python objects; {EXPECTED}") from None
    return array


def _as_rgb(array: np.ndarray, name: str, path: str, notices: list[str]) -> np.ndarray:
    """Returns images as uint8 [N, H, W, 3], and says in `notices` what they were.

    Raises:
        UserError: they are something else; the message holds the line that would mend it.
    """
    was = f"{array.dtype} of shape {list(array.shape)}"
    refused = f"images.path: array {name} of {path} is {was}"
    kind, shape = array.dtype.kind, array.shape
    if not array.size or kind not in "uif" or array.ndim not in (3, 4):
        raise UserError(f"{refused}; {EXPECTED}")
    if array.ndim == 3:
        array = array[..., None]
    elif shape[3] not in (1, 3) and shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in (1, 3):
        mend = f"; write {name}[..., :3]" if array.shape[3] == 4 else ""
        raise UserError(f"{refused}; {EXPECTED}{mend}")
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if kind == "f" and low >= 0 and high <= 1:
            array = np.rint(array * np.float32(255)).astype(np.uint8)
        elif kind in "ui" and low >= 0 and high <= 255:
            array = array.astype(np.uint8)
        else:
            scaled = f"{name} / {name}.max() * 255" if low >= 0 else f"({name} + 1) * 127.5"
            raise UserError(
                f"{refused} with values from {low:g} to {high:g}; write ({scaled}).round().astype('uint8'), or as "
                "fits what they mean"
            )
    array = np.repeat(array, 3, axis=3) if array.shape[3] == 1 else np.ascontiguousarray(array)
    if was != f"{array.dtype} of shape {list(array.shape)}":
        notices.append(f"{OF_IMAGES}array {name} of {path} is {was}; taken as uint8 {list(array.shape)}")
    return array


def _split(count: int, config: ImagesConfig) -> list[np.ndarray]:
    """Places of the training and of the validation images of one array, drawn once for all configs."""
    if count < 2:
        raise UserError(f"images.path: {printable(config.path)} holds 1 image; training and validation need 2")
    places = np.random.default_rng(0).permutation(count)
    kept = min(max(1, round(config.val_fraction * count)), count - 1)
    return [np.sort(places[kept:]), np.sort(places[:kept])]


def _portrait(name: str, array: np.ndarray, item: int, compared: bool) -> Portrait:
    image = array[item]
    look = perceptual_hash(Image.fromarray(image)) if compared else b""
    return Portrait(f"{name}[{item}]", hashlib.sha256(image.tobytes()).digest(), look)


def _take(arrays: np.ndarray | dict[int, np.ndarray], item: int, generator: np.random.Generator) -> np.ndarray:
    return arrays[item]

"""Images in an npz archive."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from functools import partial
from itertools import chain

import numpy as np
from PIL import Image

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images, subset
from drorae.data.duplicates import Portrait, perceptual_hash, report_shared
from drorae.data.labels import checked_labels, together
from drorae.data.splits import by_role, split_role
from drorae.errors import OF_IMAGES, Notice, UserError, printable
from drorae.storage.remote import expanded

EXPECTED = "expected uint8 arrays named train and val of shape [N, H, W, 3]"
COMPARED = 20_000
"""Images, above which only equal ones are looked for among both sides, not similar ones."""
_LABELS = frozenset(("label", "labels", "y", "target", "targets", "class", "cls"))
_IMAGES = frozenset(("x", "image", "images", "img", "imgs", "data", "pixels"))
"""Words in the names of arrays, of labels and of images."""
_CLASS_NAMES = ("label_names", "class_names", "classes")
"""Arrays of texts that are the classes' names."""


def load_npz(config: ImagesConfig) -> Images:
    """Opens an archive with an array of training and one of validation images.

    They are called train and val, or otherwise after a split (x_train, test_images ...), or as `images.keys` says; a
    single one is split by `images.val_fraction`. uint8 [N, H, W, 3] is taken as it is; channels first, grey, floats in
    [0, 1] and wider integers up to 255 are converted, with a notice. Labels are in arrays called as the images are
    (train_labels, y_test; of a single array, labels), or that `images.keys` names behind them.

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
        labels = _labels(archive, config, names, list(map(len, arrays)), notices)
        classes = _class_names(archive, path, notices)
    if tuple(names) != ("train", "val"):
        notices.insert(0, f"{OF_IMAGES}{path}: trained on {names[0]}, measured on {names[-1]}")
    places = [np.arange(len(array)) for array in arrays]
    if len(names) == 1:
        names, arrays, labels, places = names * 2, arrays * 2, labels * 2, _split(len(arrays[0]), config)
    said = [None if part is None else part[place] for part, place in zip(labels, places, strict=True)]
    annotations = together(said, classes, (None, None), notices)
    for notice in notices:
        warnings.warn(notice, Notice, stacklevel=4)
    compared = sum(map(len, places)) <= COMPARED
    sets: list[CropSet] = []
    portraits: list[list[Portrait]] = []
    limits = (config.train_images, config.val_images)
    for name, array, place, limit, own in zip(names, arrays, places, limits, annotations, strict=True):
        taken = subset(len(place), limit, config.seed)
        items = place[taken]
        chosen = dict(zip(items.tolist(), array[items], strict=True)) if len(items) < len(array) else array
        content = chain([str(array.shape[1:]).encode()], (array[item].tobytes() for item in items))
        described = own.taken(taken)
        sets.append(CropSet(partial(_take, chosen), items, config, not sets, content, annotations=described))
        portraits.append([_portrait(name, array, item, compared) for item in items])
    notices += report_shared(*portraits)
    train, val = sets
    return Images(train, val, notices=tuple(notices), label_names=annotations[0].label_names)


def _names(archive: np.lib.npyio.NpzFile, config: ImagesConfig) -> list[str]:
    """Names of the training and the validation array, or of the one there is."""
    path, found = printable(config.path), archive.files
    names = list(config.keys) or [name for name in ("train", "val") if name in found]
    if set(config.keys) <= set(found):
        labels = _label_keys(archive, config)
        names = [name for name in names if name not in labels]
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


def _label_keys(archive: np.lib.npyio.NpzFile, config: ImagesConfig) -> list[str]:
    """Of several names in `images.keys`, those of labels: arrays of too few dimensions for images."""
    path, several = printable(config.path), config.keys if len(config.keys) > 1 else ()
    return [name for name in several if _read(archive, name, path).ndim < 3]


def _labels(
    archive: np.lib.npyio.NpzFile, config: ImagesConfig, names: list[str], counts: list[int], notices: list[str]
) -> list[np.ndarray | None]:
    """Labels of each array of images, of those that have any.

    Raises:
        UserError: an array is called as their labels are, and is something else.
    """
    path = printable(config.path)
    given = _label_keys(archive, config)
    if len(given) > len(names):
        raise UserError(
            f"images.keys: {', '.join(map(printable, given))} are more arrays of labels than {', '.join(names)} of "
            "images; name one for each array of images, in their order"
        )
    found: list[np.ndarray | None] = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        own = given[number : number + 1] or _called_like(name, archive.files, split=len(names) == 2)
        expected = f"expected {count} whole numbers from 0 as labels of {name}, or another name of what is none"
        arrays = {each: _read(archive, each, path, expected) for each in own}
        # Of three dimensions they are masks.
        arrays = {each: array for each, array in arrays.items() if array.ndim < 3}
        checked = [checked_labels(array, count, each, path) for each, array in arrays.items()]
        if any(not np.array_equal(checked[0], other) for other in checked[1:]):
            notices.append(
                f"{OF_IMAGES}{', '.join(map(printable, arrays))} of {path} may each be labels of {name}, and none is "
                "used; set images.keys to the arrays of images and of labels: TRAIN,VAL,TRAIN_LABELS,VAL_LABELS"
            )
            checked = []
        found.append(checked[0] if checked else None)
    for name in archive.files:
        if len(names) == 2 and not given and _words(name) and _words(name) <= _LABELS:
            notices.append(
                f"{OF_IMAGES}array {printable(name)} of {path} goes with none of {', '.join(map(printable, names))}, "
                f"and is not used; call labels as their images: {printable(names[0])}_labels"
            )
    return found


def _called_like(images: str, names: list[str], split: bool) -> list[str]:
    """The arrays of labels whose names go with one of images: the rest of the name is the same, or the same split's."""
    own, role = _words(images) - _IMAGES, split_role(images)
    rests = {name: _words(name) - _LABELS for name in names if name != images and _words(name) & _LABELS}
    return [name for name, rest in rests.items() if rest == own] or [
        name for name, rest in rests.items() if split and role and len(rest) == 1 and split_role(name) == role
    ]


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower()))


def _class_names(archive: np.lib.npyio.NpzFile, path: str, notices: list[str]) -> tuple[str, ...]:
    """The classes' names by label; empty where they are not told, or not as texts."""
    for name in _CLASS_NAMES:
        if name not in archive.files:
            continue
        try:
            array = _read(archive, name, path, f"write texts, numpy.array({name}, str), for the names of the classes")
        except UserError as error:
            # No one trained on these images needs them.
            notices.append(str(error))
            continue
        if array.ndim == 1 and array.dtype.kind == "U":
            return tuple(array.tolist())
    return ()


def _read(archive: np.lib.npyio.NpzFile, name: str, path: str, expected: str = EXPECTED) -> np.ndarray:
    try:
        array: np.ndarray = archive[name]
    except MemoryError:
        raise
    except Exception:
        # Broken archives make zipfile, zlib and numpy raise whatever they stumble over.
        raise UserError(f"images.path: array {name} of {path} is damaged or holds Python objects; {expected}") from None
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


def _take(
    arrays: np.ndarray | dict[int, np.ndarray], item: int, generator: np.random.Generator, least: int
) -> np.ndarray:
    return arrays[item]

"""Labels and captions of images: read, checked, and brought together for training and validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drorae.data.crops import Annotations
from drorae.data.index import Found
from drorae.data.splits import split_role
from drorae.errors import OF_IMAGES, UserError, printable

MISSING, UNFIT = -1, -2
"""Labels of an image that has none, and of one whose label is no whole number from 0."""
_SIDES = ("training", "validation")


def label_of(value: object) -> int:
    """Returns the class that a value from a table or a text stands for; `MISSING` and `UNFIT` where it is none.

    Hubs write -1 where a class is not told.
    """
    if value is None:
        return MISSING
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return int(value) if isinstance(value, int) and -1 <= value < 2**63 else UNFIT


def caption_of(value: object) -> str:
    """Returns the caption that a text or its bytes (UTF-8) hold; empty for anything else."""
    if isinstance(value, str):
        # Of JSON's escapes, half a character may be left.
        value = value.encode(errors="replace")
    return value.decode("utf-8-sig", "replace").strip() if isinstance(value, bytes) else ""


def checked_labels(array: np.ndarray, count: int, name: str, path: str) -> np.ndarray:
    """Returns an array of labels as int64 [N].

    Args:
        array: whole numbers from 0, [N] or [N, 1].
        count: N.
        name: of the array, for messages.
        path: of its archive, for messages.

    Raises:
        UserError: it is something else; the message holds the line that would mend it, where there is one.
    """
    refused = f"images.path: array {printable(name)} of {path} is {array.dtype} of shape {list(array.shape)}"
    wanted = (
        f"; labels of its {count} images are whole numbers from 0, of shape [{count}]: write that, or give the array "
        "another name if it holds no labels"
    )
    if array.ndim == 2 and array.shape[1] > 1 and len(array) == count:
        raise UserError(f"{refused}{wanted}; of one column per class: {name}.argmax(1)")
    if array.shape not in ((count,), (count, 1)):
        raise UserError(f"{refused}{wanted}")
    labels = array.reshape(-1)
    if labels.dtype.kind in "US":
        raise UserError(f"{refused}{wanted}; of names: numpy.unique({name}, return_inverse=True)[1]")
    is_float = labels.dtype.kind == "f"
    if labels.dtype.kind not in "buif" or (is_float and not all(map(float.is_integer, labels.tolist()))):
        raise UserError(f"{refused} and does not hold whole numbers{wanted}")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= 2**63:
        raise UserError(f"{refused} with values from {low:g} to {high:g}{wanted}")
    return labels.astype(np.int64)


def by_folders(roots: Sequence[Sequence[Found]]) -> list[list[Found]]:
    """Labels images by the first folder that they lie in below each root, as ImageNet is laid out.

    The classes are the sorted names of all such folders, the same for all roots. A root has labels if all of its images
    lie in such a folder, and there are two of them in all. Where all of these folders are named after splits, the
    classes are the folders in them.
    """
    folders = [_first_folders([image.name for image in images]) for images in roots]
    names = tuple(sorted({name for found in folders for name in found or ()}))
    if len(names) < 2:
        return [list(images) for images in roots]
    numbers = {name: number for number, name in enumerate(names)}
    return [
        [image._replace(label=numbers[name], classes=names) for image, name in zip(images, found, strict=True)]
        if found
        else list(images)
        for images, found in zip(roots, folders, strict=True)
    ]


def _first_folders(names: Sequence[str]) -> list[str] | None:
    """Those of paths, below a folder named after a split; None where a path has none."""
    parts = [name.split("/")[:-1] for name in names]
    first = {folders[0] for folders in parts if folders}
    at = 1 if first and all(map(split_role, first)) else 0
    return [folders[at] for folders in parts] if all(len(folders) > at for folders in parts) else None


def annotate(sides: Sequence[Sequence[Found]]) -> tuple[list[Annotations], list[str]]:
    """Returns labels and captions of the training and of the validation images, and what is to be known about them.

    Labels are used where every image of a side has one. Of captions, missing ones are empty.
    """
    notices: list[str] = []
    labels = [_labels(images, which, notices) for which, images in zip(_SIDES, sides, strict=True)]
    # Told by identity first: to hash a thousand names for every image would take long.
    spelled = {id(image.classes): image.classes for images in sides for image in images if image.classes}
    names = sorted(set(spelled.values()))
    if len(names) > 1:
        notices.append(
            f"{OF_IMAGES}files name their classes differently ({_listed(names[0])} and {_listed(names[1])}): labels "
            "are not used; write them with the same classes in the same order"
        )
        labels = [None, None]
    captions = _captions(sides, notices)
    return together(labels, names[0] if len(names) == 1 else (), captions, notices), notices


def together(
    labels: Sequence[np.ndarray | None],
    names: tuple[str, ...],
    captions: Sequence[Sequence[str] | None],
    notices: list[str],
) -> list[Annotations]:
    """Returns what is said of training and validation images; says in `notices` what does not match."""
    told = [part for part in labels if part is not None]
    largest = max((int(part.max()) for part in told), default=-1)
    if names and largest >= len(names):
        notices.append(
            f"{OF_IMAGES}label {largest} has no name, there being {len(names)} ({_listed(names)}): names are not used; "
            "give every label one"
        )
        names = ()
    if len(told) == 2:
        own = [set(np.unique(part).tolist()) for part in told]
        alone = [len(own[0] - own[1]), len(own[1] - own[0])]
        if any(alone):
            notices.append(
                f"{OF_IMAGES}of {len(own[0] | own[1])} classes, {alone[0]} have training images only and {alone[1]} "
                "validation images only"
            )
    names = names if told else ()
    return [Annotations(part, names, texts) for part, texts in zip(labels, captions, strict=True)]


def _labels(images: Sequence[Found], which: str, notices: list[str]) -> np.ndarray | None:
    labels = np.fromiter((image.label for image in images), np.int64, len(images))
    without = np.flatnonzero(labels < 0)
    if not len(without):
        return labels
    if (labels != MISSING).any():
        notices.append(
            f"{OF_IMAGES}{len(without)} of {len(labels)} {which} images have no label that is a whole number from 0, "
            f"such as {printable(images[without[0]].shown)}: labels of {which} images are not used; give each image one"
        )
    return None


def _captions(sides: Sequence[Sequence[Found]], notices: list[str]) -> list[tuple[str, ...] | None]:
    total = sum(map(len, sides))
    without = [image for images in sides for image in images if not image.caption]
    if len(without) == total:
        return [None] * len(sides)
    if without:
        notices.append(
            f"{OF_IMAGES}{len(without)} of {total} images have no caption, such as {printable(without[0].shown)}: "
            "it is taken as empty"
        )
    return [tuple(image.caption for image in images) for images in sides]


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(printable(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")

"""The usual names of a data set's splits, as folders and arrays bear them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Literal

from drorae.errors import OF_IMAGES, Notice, UserError, printable

Role = Literal["train", "val", "test", "other"]
"""What a split is for; other: it is a split, but which is not known, such as a fold."""

_WORDS: dict[Role, str] = {
    "train": r"train(ing|set|val)?|trn",
    "val": r"val(id|idation|set)?|dev(set)?|eval(uation)?",
    "test": r"test(ing|set)?|h[eo]ld_?out",
    "other": r"fold|split",
}
_PATTERNS = {
    # Alone or among other words, with a number or CycleGAN's A or B behind it: train2017, ILSVRC2012_img_val, trainA.
    role: re.compile(rf"(?:^|[^a-z])(?:{words})(?:[ab]|[\W_]*\d+)?(?:$|[^a-z])")
    for role, words in _WORDS.items()
}


def split_role(name: str) -> Role | None:
    """Returns what the split of this name is for, whatever its case; None for a name that is no split's."""
    low = name.lower()
    roles: list[Role] = [role for role, pattern in _PATTERNS.items() if pattern.search(low)]
    if not roles or (roles == ["other"] and not re.search(r"\d", low)):
        return None
    return roles[0] if len(roles) == 1 else "other"


def by_role(names: Iterable[str]) -> dict[Role, list[str]]:
    """Returns the names that are a split's, by what it is for."""
    found: dict[Role, list[str]] = {}
    for name in names:
        if role := split_role(name):
            found.setdefault(role, []).append(name)
    return found


def sides_by_name(shown: str, names: Iterable[str], what: str) -> tuple[list[str], list[str]]:
    """Returns the names of the training and of the validation split, and what is to be known about them.

    No name is returned where none is a split's; one, where only the training split is there. Warns of what is left out.

    Args:
        shown: where they lie, for messages.
        names: of all that lies there, splits or not.
        what: they are, for messages: `folders`.

    Raises:
        UserError: the names do not tell which is for what.
    """
    names = sorted(names)
    found = by_role(names)
    train, measured = found.get("train", []), found.get("val") or found.get("test", [])
    if not found:
        return [], []
    if len(train) == 1 and len(measured) == 1 and "other" not in found:
        left = [name for name in names if name not in (*train, *measured)]
        notices = [f"{OF_IMAGES}{printable(shown)}: trained on {train[0]}, measured on {measured[0]}"]
        if left:
            notices[0] += f"; left out: {', '.join(map(printable, left))}"
        if left or measured != found.get("val"):
            warnings.warn(notices[0], Notice, stacklevel=5)
        return [train[0], measured[0]], notices
    if names == train and len(train) == 1:
        return train, []
    some = ", ".join(printable(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")
    raise UserError(
        f"images.path: {printable(shown)} holds the {what} {some}, of which the split is not clear; set "
        "images.path to the one to train on and images.val_path to the one to measure on, or images.split=pooled to "
        "mix them all"
    )

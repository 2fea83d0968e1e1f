"""The usual names of a data set's splits, as folders and arrays bear them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

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

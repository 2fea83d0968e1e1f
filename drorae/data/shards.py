"""Files that hold many images each, named after their split as hubs name them: `train-00000-of-00002.parquet`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from drorae.config import ImagesConfig
from drorae.data.collection import Side
from drorae.data.index import File, stamped
from drorae.data.splits import sides_by_name, split_role
from drorae.errors import UserError, printable
from drorae.storage.patterns import braced

_NUMBER = re.compile(r"(^|[-_.])\d+(-of-\d+)?(-[0-9a-f]{16})?$")


def split_of(name: str) -> str:
    """Returns the split that a shard of this path belongs to; empty where neither file nor folders name one."""
    *folders, last = name.split("/")
    stem = last.rsplit(".", 1)[0]
    return next((word for word in (_NUMBER.sub("", stem), stem, *reversed(folders)) if word and split_role(word)), "")


def shard_sides(config: ImagesConfig, ending: str) -> tuple[list[Side], list[str]]:
    """Returns the shards of `images.path` and `images.val_path`, and what is to be known about them.

    Args:
        config: where they are. A path is a file, a folder of them, or a pattern with braces.
        ending: theirs, such as `.tar`; other files of a folder are none.

    Raises:
        UserError: there are none, or their names do not tell which are for what.
    """
    fields = [(name, path) for name, path in (("path", config.path), ("val_path", config.val_path)) if path]
    given = [_shards(name, path, ending) for name, path in fields]
    notices: list[str] = []
    sides = [Side(path, files) for (_, path), files in zip(fields, given, strict=True)]
    if len(given) == 2:
        shared = {os.path.realpath(file.path) for file in given[0]} & {os.path.realpath(file.path) for file in given[1]}
        if shared:
            raise UserError(
                f"images.val_path: {printable(config.val_path)} and images.path share {printable(min(shared))}; name "
                "other files to measure on"
            )
    elif config.split == "auto":
        groups: dict[str, list[File]] = {}
        for file in given[0]:
            groups.setdefault(split_of(file.name), []).append(file)
        names, notices = sides_by_name(config.path, [name or f"(no split's) *{ending}" for name in groups], "splits")
        if len(names) == 2:
            sides = [Side(f"{config.path} ({name})", groups[name]) for name in names]
    return sides, notices


def _shards(field: str, path: str, ending: str) -> list[File]:
    """The shards that a path stands for, by name."""
    found: list[File] = []
    for place in braced(path):
        if not place.exists():
            raise UserError(
                f"images.{field}: {printable(str(place))} does not exist; name a {ending} file, a folder of them or a "
                f"pattern such as shards-{{000..011}}{ending}"
            )
        if place.is_file():
            found.append(stamped(str(place), place.name))
        else:
            found += _below(place, ending)
    if not found:
        raise UserError(f"images.{field}: no {ending} files in {printable(path)}; looked in all folders below, too")
    return found


def _below(root: Path, ending: str) -> list[File]:
    paths = sorted(
        (path.relative_to(root).as_posix(), str(path))
        for path in root.rglob(f"*{ending}")
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return [stamped(path, name) for name, path in paths]

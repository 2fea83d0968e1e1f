"""Images in folders, each a file of its own."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from drorae.config import ImagesConfig
from drorae.data.collection import Holder, Side, collect
from drorae.data.crops import Images
from drorae.data.encoded import EXTENSIONS, FORMATS, will_pass
from drorae.data.index import File, Found, Place, stamped
from drorae.data.labels import caption_of
from drorae.data.splits import Role, by_role, sides_by_name
from drorae.errors import OF_IMAGES, Notice, UserError, printable
from drorae.storage.cache import Cache
from drorae.storage.remote import expanded

NO_PHOTOGRAPHS = (
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "#snapshot", "system volume information",
    "lost+found", "thumbs", "thumbnails", "_thumbs",
)  # fmt: skip
"""Folders, in small letters, that systems and viewers put beside photographs."""
_CAPTION = ".txt"
"""In place of an image's extension: the file that captions it."""


class _Listing(NamedTuple):
    """The files below a folder."""

    files: list[File]
    ignored: Counter[str]
    """Numbers of other files, by extension."""


def load_folder(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """Opens the images in folders (`drorae.data.collection.collect`).

    Raises:
        UserError: no such folder, too few images, or too many of them unusable.
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
    sides = [Side(root, listing.files) for root, listing in zip(roots, listings, strict=True)]
    return collect(config, sides, Holder(_contents, _path), notices, cache)


def _contents(file: File) -> list[Found]:
    """The one image that a file is. An empty one may be no file at all, such as a pipe, and is not opened."""
    problem = "" if file.size else "zero-byte"
    return [Found(file.name, Place(file.path), problem=problem, caption=_caption(file) if file.beside else "")]


def _caption(file: File) -> str:
    """What the file beside an image says; empty where it cannot be read."""
    try:
        return caption_of(Path(_beside(file.path)).read_bytes())
    except OSError as error:
        if will_pass(error):
            raise
        return ""


def _path(place: Place) -> str:
    return place.path


def _roots(config: ImagesConfig) -> tuple[list[str], list[str]]:
    """The training and the validation folder, or the one folder to be split, and what is to be known about them."""
    given = [expanded(path) for path in (config.path, config.val_path) if path]
    for name, folder in zip(("path", "val_path"), given, strict=False):
        if not folder.is_dir():
            state = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"images.{name}: {printable(str(folder))} {state}; name a folder of images")
    roots, notices = given, list[str]()
    if config.split == "auto":
        below = [_folders(folder) for folder in given]
        if len(given) == 1:
            names, notices = sides_by_name(str(given[0]), below[0], "folders")
            roots = [given[0] / name for name in names] if len(names) == 2 else given
        for name, folder, found in zip(("path", "val_path"), given, map(by_role, below), strict=False):
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


def _folders(folder: Path) -> list[str]:
    """Names of the folders in one."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_visible(path.name))


def _list_files(root: str, config: ImagesConfig) -> _Listing:
    """Files with an image's extension below `root`, sorted by name; links are followed, each folder once."""
    files: list[File] = []
    ignored: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        prefix = "" if folder == root else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        below[:] = sorted(filter(_is_visible, below))
        if config.split == "auto" and folder != root:
            _refuse_nested(folder, by_role(below))
        visible = [name for name in names if not name.startswith(".")]
        images = [name for name in visible if name.lower().endswith(EXTENSIONS)]
        texts = {name for name in visible if name.endswith(_CAPTION)}
        captions = texts and texts & set(map(_beside, images))
        for name in images:
            file = stamped(f"{folder}{os.sep}{name}", prefix + name)
            if captions and (beside := _beside(name)) in captions:
                file = file._replace(beside=_stamp(f"{folder}{os.sep}{beside}"))
            files.append(file)
        for name in set(visible).difference(images, captions):
            ignored[os.path.splitext(name)[1].lower() or "no extension"] += 1
    return _Listing(sorted(files, key=attrgetter("name")), ignored)


def _beside(name: str) -> str:
    """The name of the file that captions an image."""
    return os.path.splitext(name)[0] + _CAPTION


def _stamp(path: str) -> str:
    """What tells a caption's content from what it held before. A pipe or a folder holds none."""
    state = stamped(path, "")
    return f"{state.size} {state.changed}" if os.path.isfile(path) else ""


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

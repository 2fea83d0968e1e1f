"""Who has an entry of a store open, and which entries go where there is no room: those that nobody has, oldest first.

A file in the entry is locked shared by whoever has it open, on this machine or on another that shares the disk, and
exclusively by who removes it. Its time is that of the last opening. Where a disk knows no locks, nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drorae.storage.files import UNWRITABLE, folder_bytes

IN_USE = ".in-use"
"""The file of an entry that is locked. Hidden, so that no store of other machines holds it."""
EVICTED = ".evicted"
"""Ends the name of a folder that is being removed; a killed process may have left one."""


class Hold:
    """Keeps an entry from being removed as long as this object lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def hold(folder: Path) -> Hold | None:
    """Holds an entry, and notes that it is used now; None where it is gone, or was just being removed."""
    path = folder / IN_USE
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            # Another user's, whose lock can be held all the same.
            descriptor = os.open(path if path.exists() else folder, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    held = Hold(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
    return held if folder.is_dir() and not _is_another(path, descriptor) else None


def _is_another(path: Path, descriptor: int) -> bool:
    """Whether the file of that name is not the one that was opened: the entry was removed, and made anew."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return not os.path.samestat(status, os.fstat(descriptor))


@dataclass(frozen=True)
class Candidate:
    """An entry that nobody has open."""

    folder: Path
    size: int
    """Bytes."""
    used: float
    """When it was last opened, in seconds since the epoch."""
    what: str

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d", time.localtime(self.used))
        return f"{self.folder.name} ({self.what}, {self.size / 1e9:.2f} GB, last used {day})"

    def remove(self) -> bool:
        """Removes the entry; whether it did: another process may have opened it by now."""
        with _alone(self.folder) as alone:
            if not alone:
                return False
            going = self.folder.with_name(self.folder.name + EVICTED)
            shutil.rmtree(going, ignore_errors=True)
            os.replace(self.folder, going)
        shutil.rmtree(going, ignore_errors=True)
        return True


def candidates(root: Path, manifest: str) -> list[Candidate]:
    """Returns the whole entries of a store that nobody has open, the one used longest ago first.

    Args:
        root: the store.
        manifest: name of the file that makes an entry whole, and says what it is.
    """
    found = []
    for path in root.glob(f"*/{manifest}"):
        folder = path.parent
        if folder.suffix:
            continue
        try:
            tree = json.loads(path.read_text())
            what = f"{tree['key'].get('kind', 'array')} of {tree['count']} items"
            marked = folder / IN_USE
            used = (marked if marked.exists() else path).stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        with _alone(folder) as alone:
            if alone:
                found.append(Candidate(folder, folder_bytes(folder), used, what))
    return sorted(found, key=lambda each: each.used)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Holds an entry against all others meanwhile; whether nobody has it open."""
    path = folder / IN_USE
    try:
        lacking, before = not path.exists(), folder.stat()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield False
        return
    try:
        if lacking:
            # An older version's: looking at it is no use of it.
            os.utime(descriptor, (before.st_atime, before.st_mtime))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)

"""The cache folder, and behind it, where that is a URL, a store that machines share.

An entry is a file or a folder whose name is a hash of what it depends on: once made, it never changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock

from drorae.errors import DiskFullError, Notice, UserError
from drorae.storage.files import ROOM_BYTES, UNWRITABLE, full_disk, has_room
from drorae.storage.remote import Remote, RemoteError, locate, own_folder, patiently
from drorae.storage.sealed import SEAL

_REMEDY = "let this user write to it, or name another folder (--cache-dir or DRORAE_CACHE)"
UPLOAD_SECONDS = 30.0
"""How long sharing an entry is tried: the trial at hand does not need it."""


class Cache:
    """Entries by name, such as `references/HASH.npz`.

    Args:
        place: a folder, or a URL; of the latter this machine keeps copies in `own_folder`.
    """

    def __init__(self, place: str | Path) -> None:
        found = locate(place)
        self.remote = found if isinstance(found, Remote) else None
        self.local = own_folder() if isinstance(found, Remote) else found

    def __truediv__(self, name: str) -> Path:
        return self.local / name

    def check(self) -> None:
        """Finds out whether entries can be made here, or at least read: an administrator's cache may hold all of them.

        Raises:
            UserError: neither.
            DiskFullError: there is no room.
        """
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            room = has_room(self.local, ROOM_BYTES)
        except OSError as error:
            if error.errno in UNWRITABLE and self._is_readable():
                return
            reason = "it is a file" if self.local.is_file() else error.strerror or error
            raise UserError(f"cache {self.local}: cannot be used ({reason}); {_REMEDY}") from None
        if not room:
            raise DiskFullError(full_disk(self.local))

    def _is_readable(self) -> bool:
        try:
            next(self.local.iterdir(), None)
            return True
        except OSError:
            return False

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Holds the file lock `name`, making its folder; holds none where nobody could make what it guards."""
        path = self.local / name
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(path))
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
            yield

    @contextlib.contextmanager
    def naming_unwritable(self) -> Iterator[None]:
        """Makes it a UserError that an entry is missing, or damaged, in a cache that cannot be written to."""
        try:
            yield
        except OSError as error:
            path = Path(error.filename or "")
            if error.errno not in UNWRITABLE or not path.is_relative_to(self.local):
                raise
            where = "/".join(path.relative_to(self.local).parts[:1])
            raise UserError(
                f"cache {self.local}: an entry of its {where} is missing or damaged, and cannot be made there "
                f"({error.strerror}); {_REMEDY}"
            ) from None

    def holds(self, name: str) -> bool:
        """Whether a file is here, or in the store.

        Raises:
            RemoteError: the store stays away.
        """
        remote = self.remote
        return (self / name).is_file() or (remote is not None and patiently((remote / name).read) is not None)

    def fetch(self, name: str, last: str = "", anew: bool = False) -> bool:
        """Brings an entry here that is missing here and there in the store; whether it did.

        `last` names the file of a folder that is sent last: without it the entry is not whole. `anew` brings a file
        that is here, too: one that is no entry, and may have changed.

        Raises:
            RemoteError: the store stays away.
        """
        remote, path = self.remote, self.local / name
        if remote is None or (path.exists() and not anew):
            return False
        entry = remote / name
        if not last:
            patiently(lambda: remote.download([f"{name}{SEAL}", name], self.local))
            return path.exists()
        files = patiently(entry.files)
        if last not in files:
            return False
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            patiently(lambda: entry.download(files, draft))
            os.replace(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True

    def share(self, name: str, last: str = "") -> None:
        """Sends an entry that was just made here to the store; warns where that does not take it."""
        if self.remote is None:
            return
        remote, path = self.remote, self.local / name
        names = [f"{name}{SEAL}", name]
        if path.is_dir():
            names = [f"{name}/{item.name}" for item in path.iterdir() if item.is_file() and item.name[0] != "."]
        try:
            for item in sorted(names, key=lambda item: item.rpartition("/")[2] == last):
                patiently(partial((remote / item).upload, self.local / item), UPLOAD_SECONDS)
        except RemoteError as error:
            warnings.warn(f"{name} stays on this machine ({error}); others make it again", Notice, stacklevel=2)

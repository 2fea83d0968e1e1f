"""The cache folder, and behind it, where that is a URL, a store that machines share.

An entry is a file or a folder whose name is a hash of what it depends on: once made, it never changes.
"""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from functools import partial
from pathlib import Path

from drorae.errors import Notice
from drorae.storage.remote import Remote, RemoteError, locate, own_folder, patiently
from drorae.storage.sealed import SEAL

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
        self.local = own_folder() if isinstance(found, Remote) else found.expanduser()

    def __truediv__(self, name: str) -> Path:
        return self.local / name

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
            names = [f"{name}/{item.name}" for item in path.iterdir() if item.is_file()]
        try:
            for item in sorted(names, key=lambda item: item.rpartition("/")[2] == last):
                patiently(partial((remote / item).upload, self.local / item), UPLOAD_SECONDS)
        except RemoteError as error:
            warnings.warn(f"{name} stays on this machine ({error}); others make it again", Notice, stacklevel=2)

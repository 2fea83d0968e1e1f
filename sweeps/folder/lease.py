"""A lease on a folder of a shared disk or an object store: one holder at a time, on whatever machine, found out when
it dies.

Disks that several machines share do not all keep file locks, and stores have none. A lease is a file that its holder
renews; whoever waits watches whether it is renewed by a clock of its own, so that no two machines' clocks are ever
compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from drorae.storage.files import write_atomic
from drorae.storage.remote import Remote

BEAT_SECONDS = 3.0
EXPIRE_SECONDS = 30.0
"""A lease that is not renewed for so long is free to be taken."""
POLL_SECONDS = 0.5


class DiskFile:
    """A file of a shared disk, with the calls that `Remote` has for one of a store."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    def with_name(self, name: str) -> DiskFile:
        """Another in the same folder."""
        return DiskFile(self.path.with_name(name))

    def read(self) -> bytes | None:
        """Its content; None where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, content: bytes) -> None:
        """Makes or replaces it."""
        write_atomic(self.path, content)

    def create(self, content: bytes) -> bool:
        """A whole file or none, and only where there is none: the one operation that all shared disks have."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.name}.{uuid.uuid4().hex}")
        try:
            draft.write_bytes(content)
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def delete(self) -> None:
        """Removes it; nothing where there is none."""
        self.path.unlink(missing_ok=True)

    def age(self) -> float | None:
        """Seconds since it was written; None where there is none."""
        try:
            return time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return None


def _file(path: Path | Remote) -> DiskFile | Remote:
    return path if isinstance(path, Remote) else DiskFile(path)


def _parse(content: bytes | None) -> dict[str, Any] | None:
    try:
        tree = json.loads(content or b"")
    except ValueError:
        return None
    return tree if isinstance(tree, dict) and "owner" in tree else None


def read_lease(path: Path | Remote) -> dict[str, Any] | None:
    """Holder (owner, host, pid) and beat of a lease; None where nobody has it."""
    try:
        return _parse(_file(path).read())
    except OSError:
        return None


def is_live(path: Path | Remote) -> bool:
    """Whether a lease seems to be held, at one glance: a holder that just died on another machine counts as alive."""
    held = read_lease(path)
    if held is None or _died_here(held):
        return False
    try:
        age = _file(path).age()
    except OSError:
        return False
    return age is not None and age < EXPIRE_SECONDS


def _died_here(held: dict[str, Any]) -> bool:
    if held.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(held["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, TypeError, ValueError):
        return False
    return False


class Lease:
    """A lease of this process on `path`, renewed by a thread from `acquire` to `release`."""

    def __init__(self, path: Path | Remote) -> None:
        self.path = path
        self._file = _file(path)
        self.owner = uuid.uuid4().hex
        self._beats = 0
        self._lost = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another process has taken it over, as after a long suspension of this one."""
        return self._lost

    def acquire(self, wait: bool = True, waiting: Callable[[str], None] = lambda line: None) -> bool:
        """Takes the lease; False where somebody alive has it and `wait` is False.

        A holder that died on this machine is seen at once, one on another machine after `EXPIRE_SECONDS` without a
        beat, for which even `wait=False` stays. `waiting` is told once whom it waits for.

        Raises:
            OSError: the disk or the store does not take it.
        """
        seen: tuple[Any, ...] = ()
        since = time.monotonic()
        said = False
        while True:
            held = read_lease(self.path)
            if held is None:
                if self._file.create(self._content()):
                    break
                # Taken or replaced between two looks; a file that stays unreadable expires like any other.
                held = {"owner": "", "beat": -1}
            now = held.get("owner"), held.get("beat")
            if now != seen:
                if seen and not wait:
                    return False
                seen, since = now, time.monotonic()
            expired = time.monotonic() - since > EXPIRE_SECONDS
            if expired or _died_here(held):
                if self._take_over(str(held["owner"])):
                    break
                since = time.monotonic()
            if not said:
                said = True
                waiting(f"held by process {held.get('pid', '?')} on {held.get('host', 'an unknown machine')}")
            time.sleep(POLL_SECONDS)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Gives the lease back; of a lost one, nothing."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        held = read_lease(self.path)
        if held is not None and held["owner"] == self.owner:
            # Of a store that is away just now it expires.
            with contextlib.suppress(OSError):
                self._file.delete()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _content(self) -> bytes:
        self._beats += 1
        tree = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "beat": self._beats}
        return json.dumps(tree).encode()

    def _take_over(self, dead: str) -> bool:
        """Replaces a dead holder's lease. Of several that try, the one that sets its mark does."""
        mark = self._file.with_name(f".{self._file.name}.heir-of-{dead}")
        if not mark.create(self.owner.encode()):
            # Its heir may have died over it too.
            with contextlib.suppress(OSError):
                if (mark.age() or 0.0) > 2 * EXPIRE_SECONDS:
                    mark.delete()
            return False
        try:
            held = _parse(self._file.read())
            if held is not None and held["owner"] != dead:
                return False
            self._file.write(self._content())
            return True
        finally:
            with contextlib.suppress(OSError):
                mark.delete()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            # A full or absent disk, a store that is away: the next beat may succeed.
            with contextlib.suppress(OSError):
                held = _parse(self._file.read())
                if held is not None and held["owner"] != self.owner:
                    self._lost = True
                    return
                self._file.write(self._content())

"""A lease on a folder of a shared disk or an object store: one holder at a time, on whatever machine, until it dies.

Disks that several machines share do not all keep file locks, and stores have none. A lease is a file that its holder
renews; whoever waits watches whether it is renewed by a clock of its own, so that no two machines' clocks are ever
compared. A holder that was suspended for long finds, before it does anything else, whether the lease is still its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drorae.errors import UserError
from drorae.runtime.repeat import every
from drorae.storage.files import write_atomic
from drorae.storage.remote import Remote
from sweeps.folder.holder import lives, this_process

BEAT_SECONDS = 3.0
EXPIRE_SECONDS = 30.0
"""A lease that is not renewed for so long is free to be taken."""
WATCH_SECONDS = 10.0
"""A glance from elsewhere takes at most so long: three beats."""
POLL_SECONDS = 0.5
LEASE_BYTES = 512
"""A lease is padded to one length: a beat written over another is never seen in part."""


class LeaseLostError(UserError):
    """Another process has taken over what this one worked on."""


class DiskFile:
    """A file of a shared disk, with the calls that `Remote` has for one of a store."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    def with_name(self, name: str) -> DiskFile:
        """Returns another file in the same folder."""
        return DiskFile(self.path.with_name(name))

    def read(self) -> bytes | None:
        """Returns its content; None where there is no file."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, content: bytes) -> None:
        """Makes or replaces it."""
        write_atomic(self.path, content)

    def create(self, content: bytes) -> bool:
        """Makes it where there is none, else returns False: of several that try at once, one makes it.

        Readers may see it empty first.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = self.path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(content)
        except OSError:
            self.delete()
            raise
        return True

    def renew(self, owner: str, content: bytes) -> bool:
        """Writes over a lease of this owner; returns False where it is another's or gone.

        It is written into the very file that was read: one that is removed or replaced in between, as while this
        process is suspended, is neither made again nor harmed.
        """
        try:
            with self.path.open("r+b", buffering=0) as file:
                if not _is_of(owner, file.read()):
                    return False
                file.seek(0)
                file.write(content)
                return True
        except FileNotFoundError:
            return False

    def delete(self) -> None:
        """Removes it; nothing where there is none."""
        self.path.unlink(missing_ok=True)


def _file(path: Path | Remote) -> DiskFile | Remote:
    return path if isinstance(path, Remote) else DiskFile(path)


def _parse(content: bytes | None) -> dict[str, Any]:
    """Returns what a lease's file says; an empty dictionary where it says nothing, or nothing yet."""
    with contextlib.suppress(ValueError):
        tree = json.loads(content or b"")
        if isinstance(tree, dict) and "owner" in tree:
            return tree
    return {}


def _is_of(owner: str, content: bytes | None) -> bool:
    return _parse(content).get("owner") == owner


def read_lease(path: Path | Remote) -> dict[str, Any] | None:
    """Returns the holder (owner, host, pid) and the beat of a lease; None where nobody has it."""
    try:
        return _parse(_file(path).read()) or None
    except OSError:
        return None


def are_live(paths: Sequence[Path | Remote]) -> list[bool]:
    """Returns of each lease whether it is held.

    Of a holder on this machine its process tells, at once. One elsewhere, or suspended, is watched for
    `WATCH_SECONDS`, whatever the clocks of the machines say: it lives if its beat goes on. Without a word from the
    disk or the store a lease counts as free.
    """
    seen = [_glance(path) for path in paths]
    live = [False if holder is None else lives(holder) for holder in seen]
    deadline = time.monotonic() + WATCH_SECONDS
    while None in live and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        for index, (path, before) in enumerate(zip(paths, seen, strict=True)):
            if live[index] is None and (now := _glance(path)) is not None and _beat_of(now) != _beat_of(before):
                live[index] = True
    return [bool(item) for item in live]


def _glance(path: Path | Remote) -> dict[str, Any] | None:
    """Returns what a lease says, empty while it is not filled; None where there is none to be seen."""
    with contextlib.suppress(OSError):
        content = _file(path).read()
        return None if content is None else _parse(content)
    return None


def _beat_of(holder: dict[str, Any] | None) -> tuple[Any, Any]:
    return (holder or {}).get("owner"), (holder or {}).get("beat")


def _now() -> float:
    """Returns the seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """A lease of this process on `path`, renewed by a thread from `acquire` to `release`.

    A pickled copy works on the holder's behalf: it only looks whether the lease is still the holder's.

    Args:
        path: the lease's file.
        owner: the `owner` of a lease that another process holds, on whose behalf this one works; empty: this process
            is to hold it.
    """

    def __init__(self, path: Path | Remote, owner: str = "") -> None:
        self.path = path
        self.owner = owner or uuid.uuid4().hex
        self._file = _file(path)
        self._beats = 0
        self._lost = False
        self._heir: tuple[bytes | None, float] = None, 0.0
        """Another that is at taking over the same lease, and since when it was seen to be."""
        self._successor: dict[str, Any] = {}
        """Who took it over."""
        # When the file was last found to be this owner's: there is nothing to lose before it is acquired.
        self._looked = -math.inf if owner else math.inf
        self._beating = contextlib.ExitStack()

    def __reduce__(self) -> tuple[type[Lease], tuple[Path | Remote, str]]:
        return Lease, (self.path, self.owner)

    @property
    def lost(self) -> bool:
        """Whether another process has taken it over, as after a long suspension of this one.

        Reads the file where the last look is older than two beats: what was suspended may have work to do before its
        thread has.
        """
        if not self._lost and _now() - self._looked > 2 * BEAT_SECONDS:
            # A disk or store that is away tells nothing.
            with contextlib.suppress(OSError):
                self._look()
        return self._lost

    def check(self, now: bool = False) -> None:
        """Raises LeaseLostError where another process has taken it over.

        Args:
            now: look at the file, however short ago the last look was: something went wrong, which may come of it.
        """
        if now and self._looked < math.inf:
            self._looked = -math.inf
        if self.lost:
            heir = self._successor or read_lease(self.path) or {}
            who = f" ({heir.get('pid')} on {heir.get('host')})" if heir else ""
            raise LeaseLostError(
                f"{self.path.parent}: another process{who} took this over while this one was suspended or cut off; "
                "this one stops, and leaves it to the other"
            )

    def acquire(self, wait: bool = True) -> bool:
        """Takes the lease; False where somebody alive has it and `wait` is False.

        A holder that died on this machine is seen at once, one on another machine after `EXPIRE_SECONDS` without a
        beat, for which even `wait=False` stays.

        Raises:
            OSError: the disk or the store does not take it.
        """
        last: tuple[Any, ...] = ()
        since = time.monotonic()
        while True:
            began = _now()
            holder = read_lease(self.path)
            if holder is None:
                if self._file.create(self._content()):
                    break
                # Taken or replaced between two looks; a file that stays unreadable expires like any other.
                holder = {"owner": "", "beat": -1}
            beat = _beat_of(holder)
            if beat != last:
                if last and not wait:
                    return False
                last, since = beat, time.monotonic()
            if time.monotonic() - since > EXPIRE_SECONDS or lives(holder) is False:
                if self._take_over(str(holder["owner"])):
                    break
                since = time.monotonic()
            time.sleep(POLL_SECONDS)
        self._looked = began
        self._beating.enter_context(every(BEAT_SECONDS, self._beat))
        return True

    def release(self) -> None:
        """Gives the lease back; of a lost one, nothing."""
        self._beating.close()
        self._looked = math.inf
        # Of a store that is away just now it expires.
        with contextlib.suppress(OSError):
            if _is_of(self.owner, self._file.read()):
                self._file.delete()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def _content(self) -> bytes:
        self._beats += 1
        tree = {"owner": self.owner, "beat": self._beats, **this_process()}
        return json.dumps(tree).encode().ljust(LEASE_BYTES)

    def _take_over(self, dead: str) -> bool:
        """Replaces a dead holder's lease. Of several that try, the one that sets its mark does."""
        mark = self._file.with_name(f".{self._file.name}.heir-of-{dead}")
        if not mark.create(self.owner.encode()):
            # Its heir may have died over it too.
            with contextlib.suppress(OSError):
                heir = mark.read()
                if heir != self._heir[0]:
                    self._heir = heir, time.monotonic()
                elif time.monotonic() - self._heir[1] > 2 * EXPIRE_SECONDS:
                    mark.delete()
            return False
        try:
            content = self._file.read()
            # Given back, or another's by now.
            if content is None or _parse(content).get("owner", "") != dead:
                return False
            self._file.write(self._content())
            return True
        finally:
            with contextlib.suppress(OSError):
                mark.delete()

    def _look(self) -> None:
        began = _now()
        holder = _parse(self._file.read())
        if holder.get("owner") != self.owner:
            self._lost, self._successor = True, holder
        self._looked = began

    def _beat(self) -> None:
        # A full or absent disk, a store that is away: the next beat may succeed.
        with contextlib.suppress(OSError):
            if not self._lost:
                self._renew()

    def _renew(self) -> None:
        began = _now()
        if isinstance(self._file, DiskFile):
            self._lost |= not self._file.renew(self.owner, self._content())
            self._looked = began
            return
        self._look()
        if not self._lost:
            self._file.write(self._content())
        # Stores write on no condition: after so long, this may have gone over another's.
        if _now() - began > EXPIRE_SECONDS:
            self._lost = True
            self._file.delete()

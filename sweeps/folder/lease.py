"""A lease on a folder of a shared disk or an object store: one holder at a time, on whatever machine, found out when
it dies.

Disks that several machines share do not all keep file locks, and stores have none. A lease is a file that its holder
renews; whoever waits watches whether it is renewed by a clock of its own, so that no two machines' clocks are ever
compared. A holder that was suspended for long finds, before it does anything else, whether the lease is still its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from drorae.errors import UserError
from drorae.storage.files import write_atomic
from drorae.storage.remote import Remote

BEAT_SECONDS = 3.0
EXPIRE_SECONDS = 30.0
"""A lease that is not renewed for so long is free to be taken."""
POLL_SECONDS = 0.5
LEASE_BYTES = 512
"""A lease is padded to one length: a beat written over another is never seen in part."""


class LeaseLost(UserError):
    """Another process has taken over what this one worked on."""


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
        """Makes it only where there is none: of several that try at once, one does. Readers may see it empty first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
        except OSError:
            self.delete()
            raise
        return True

    def renew(self, owner: str, content: bytes) -> bool:
        """Writes over a lease of this owner; False where it is another's or gone.

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


def _is_of(owner: str, content: bytes | None) -> bool:
    return (_parse(content) or {}).get("owner") == owner


def read_lease(path: Path | Remote) -> dict[str, Any] | None:
    """Holder (owner, host, pid) and beat of a lease; None where nobody has it."""
    try:
        return _parse(_file(path).read())
    except OSError:
        return None


def is_live(path: Path | Remote) -> bool:
    """Whether a lease seems to be held, at one glance: a holder that just died on another machine counts as alive.

    So does one whose file is not filled yet.
    """
    try:
        held, age = _parse(_file(path).read()), _file(path).age()
    except OSError:
        return False
    return age is not None and age < EXPIRE_SECONDS and not (held and _is_dead(held))


@functools.cache
def _process_space() -> dict[str, str]:
    """Names the space that this process's number is unique in; empty where the system does not tell.

    Containers may have one host name, so that is not it: a pid means something in its namespace, until the next boot.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pid_namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {}


def _start_of(pid: int) -> str:
    """When a process was started, in ticks since the boot, which tells it from an earlier one of its number; empty
    where the system does not tell."""
    try:
        # Behind the name, in brackets, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, IndexError):
        return ""


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether the holder's process is known to be gone; of a process elsewhere nothing is known."""
    space = _process_space()
    if not space or any(held.get(name) != value for name, value in space.items()):
        return False
    try:
        pid = int(held["pid"])
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    started = _start_of(pid)
    return bool(started) and (held.get("started") or started) != started


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """A lease of this process on `path`, renewed by a thread from `acquire` to `release`.

    Args:
        path: the lease's file.
        owner: the `owner` of a lease that another process holds, on whose behalf this one works: it only looks.
    """

    def __init__(self, path: Path | Remote, owner: str = "") -> None:
        self.path = path
        self._file = _file(path)
        self.owner = owner or uuid.uuid4().hex
        self._beats = 0
        self._lost = False
        self._looked = -math.inf if owner else math.inf
        """When the file was last seen to be this owner's: there is nothing to lose before it is acquired."""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

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

    def check(self) -> None:
        """Raises LeaseLost where another process has taken it over."""
        if self.lost:
            raise LeaseLost(
                f"{self.path.parent}: another process took this over while this one was suspended or cut off; this "
                "one stops, and leaves it to the other"
            )

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
            began = _now()
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
            if expired or _is_dead(held):
                if self._take_over(str(held["owner"])):
                    break
                since = time.monotonic()
            if not said:
                said = True
                waiting(f"held by process {held.get('pid', '?')} on {held.get('host', 'an unknown machine')}")
            time.sleep(POLL_SECONDS)
        self._looked = began
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Gives the lease back; of a lost one, nothing."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._looked = math.inf
        # Of a store that is away just now it expires.
        with contextlib.suppress(OSError):
            if _is_of(self.owner, self._file.read()):
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
        tree |= {**_process_space(), "started": _start_of(os.getpid())}
        return json.dumps(tree).encode().ljust(LEASE_BYTES)

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
            content = self._file.read()
            # Given back, or another's by now.
            if content is None or (_parse(content) or {"owner": ""})["owner"] != dead:
                return False
            self._file.write(self._content())
            return True
        finally:
            with contextlib.suppress(OSError):
                mark.delete()

    def _look(self) -> None:
        began = _now()
        self._lost |= not _is_of(self.owner, self._file.read())
        self._looked = began

    def _renew(self) -> None:
        began = _now()
        if isinstance(self._file, DiskFile):
            self._lost |= not self._file.renew(self.owner, self._content())
        else:
            self._look()
            if not self._lost:
                self._file.write(self._content())
            # Stores write on no condition: after so long, this may have gone over another's.
            if _now() - began > EXPIRE_SECONDS:
                self._lost = True
                self._file.delete()
        self._looked = began

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS) and not self._lost:
            # A full or absent disk, a store that is away: the next beat may succeed.
            with contextlib.suppress(OSError):
                self._renew()

"""A lease on a folder of a shared disk: one holder at a time, on whatever machine, found out when it dies.

Disks that several machines share do not all keep file locks. A lease is a file that its holder renews; whoever waits
watches whether it is renewed by a clock of its own, so that no two machines' clocks are ever compared.
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

from drorae.files import write_atomic

BEAT_SECONDS = 3.0
EXPIRE_SECONDS = 30.0
"""A lease that is not renewed for so long is free to be taken."""
POLL_SECONDS = 0.5


def read_lease(path: Path) -> dict[str, Any] | None:
    """Holder (owner, host, pid) and beat of a lease; None where nobody has it."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) and "owner" in tree else None


def is_live(path: Path) -> bool:
    """Whether a lease seems to be held, at one glance: a holder that just died on another machine counts as alive."""
    held = read_lease(path)
    if held is None or _died_here(held):
        return False
    try:
        return time.time() - path.stat().st_mtime < EXPIRE_SECONDS
    except OSError:
        return False


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

    def __init__(self, path: Path) -> None:
        self.path = path
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
        """
        seen: tuple[Any, ...] = ()
        since = time.monotonic()
        said = False
        while True:
            held = read_lease(self.path)
            if held is None:
                if self._create():
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
            self.path.unlink(missing_ok=True)

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

    def _create(self) -> bool:
        """A whole file or none, and only where there is none: the one operation that all shared disks have."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{self.owner}")
        draft.write_bytes(self._content())
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _take_over(self, dead: str) -> bool:
        """Replaces a dead holder's lease. Of several that try, the one that sets its mark does."""
        mark = self.path.with_name(f".{self.path.name}.heir-of-{dead}")
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            # Its heir may have died over it too.
            with contextlib.suppress(OSError):
                if time.time() - mark.stat().st_mtime > 2 * EXPIRE_SECONDS:
                    mark.unlink()
            return False
        try:
            held = read_lease(self.path)
            if held is not None and held["owner"] != dead:
                return False
            write_atomic(self.path, self._content())
            return True
        finally:
            mark.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            held = read_lease(self.path)
            if held is not None and held["owner"] != self.owner:
                self._lost = True
                return
            # A full or absent disk: the next beat may succeed.
            with contextlib.suppress(OSError):
                write_atomic(self.path, self._content())

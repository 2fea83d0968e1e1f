"""The process that holds something, told from all others: whether it is alive is seen at once on its own machine."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import Any


@functools.cache
def _process_space() -> dict[str, str]:
    """Returns the names of the space that this process's number is unique in; empty where the system does not tell.

    Containers may have one host name, so that is not it: a pid means something in its namespace, until the next boot.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pid_namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {}


def _look_at(pid: int) -> tuple[str, str]:
    """Returns a process's state, a letter, and when it was started; both empty where the system does not tell.

    The start, in ticks since the boot, tells it from an earlier process of its number.
    """
    try:
        # Behind the name, in brackets, which may hold anything.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, ValueError, IndexError):
        return "", ""


def this_process() -> dict[str, Any]:
    """Returns what tells this process from any other, for `lives`."""
    host = {"host": socket.gethostname(), "pid": os.getpid()}
    return host | _process_space() | {"started": _look_at(os.getpid())[1]}


def lives(holder: dict[str, Any]) -> bool | None:
    """Returns whether the process that `this_process` told of is alive; None where that cannot be seen from here.

    Of one elsewhere nothing is known, of a suspended one not whether it will go on.
    """
    space = _process_space()
    if not space or any(holder.get(name) != value for name, value in space.items()):
        return None
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return None
    state, started = _look_at(pid)
    # One that was killed keeps its number until its parent asks for it.
    if state in ("Z", "X") or (started and (holder.get("started") or started) != started):
        return False
    return None if state in ("", "T", "t") else True

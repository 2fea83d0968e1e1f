"""Whether the process that holds something is alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sweeps.folder import holder
from sweeps.folder.holder import lives, this_process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, False),
        ({"pid": os.getpid(), "started": "1"}, False),
        ({"pid": os.getpid()}, True),
        ({"boot": "of another machine, or before"}, None),
        ({"pid_namespace": "pid:[of another container]"}, None),
        ({"boot": None, "pid_namespace": None, "started": None}, None),
        ({"pid": "none"}, None),
    ],
    ids=["dead", "number given again", "alive", "another boot", "another container", "an older version's", "no pid"],
)
def test_a_number_tells_only_where_it_means_something(change: dict[str, object], alive: bool | None) -> None:
    tree = this_process() | {"pid": gone(), "started": None if change.get("pid") else "1"} | change
    assert lives({name: value for name, value in tree.items() if value is not None}) is alive


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = this_process()
    monkeypatch.setattr(holder, "_look_at", lambda pid: ("", ""))
    assert lives(mine) is None
    monkeypatch.setattr(holder, "_process_space", dict)
    assert lives(mine | {"pid": gone()}) is None


def test_one_that_was_killed_is_dead_before_its_parent_asks_and_a_suspended_one_may_go_on() -> None:
    child = subprocess.Popen(SLEEP)
    tree = this_process() | {"pid": child.pid, "started": holder._look_at(child.pid)[1]}
    assert lives(tree) is True

    def becomes(expected: bool | None) -> bool:
        deadline = time.monotonic() + 300
        while lives(tree) is not expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return lives(tree) is expected

    os.kill(child.pid, signal.SIGSTOP)
    assert becomes(None)
    child.kill()
    assert becomes(False), "nobody has waited for it yet"
    child.wait()
    assert lives(tree) is False

"""Leases: one holder among processes, taken over from a dead one and by one heir only."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from sweeps.folder import lease
from sweeps.folder.lease import Lease, is_live, read_lease


def hold(path: Path, ready: Event) -> None:
    Lease(path).acquire()
    ready.set()
    time.sleep(60)


def contend(path: Path, log: Path) -> None:
    """Takes the lease, writes a line at both ends of holding it."""
    held = Lease(path)
    held.acquire()
    for word in ("in", "out"):
        with log.open("a") as file:
            file.write(f"{word} {os.getpid()}\n")
        time.sleep(0.05)
    held.release()


def test_a_living_holder_keeps_it_and_a_killed_one_leaves_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(path, ready))
    holder.start()
    assert ready.wait(30) and is_live(path)
    said: list[str] = []
    began = time.monotonic()
    assert not Lease(path).acquire(wait=False, waiting=said.append)
    assert time.monotonic() - began < 3 * lease.BEAT_SECONDS
    assert said == [f"held by process {holder.pid} on {json.loads(path.read_text())['host']}"]
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    holder.join()
    assert not is_live(path)
    mine = Lease(path)
    assert mine.acquire(wait=False) and (read_lease(path) or {})["owner"] == mine.owner
    mine.release()
    assert not path.exists() and not list(tmp_path.iterdir())


def test_of_many_one_holds_it_at_a_time(tmp_path: Path) -> None:
    path, log = tmp_path / "lease", tmp_path / "log"
    path.write_text(json.dumps({"owner": "gone", "host": "elsewhere", "pid": 1, "beat": 7}))
    context = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "EXPIRE_SECONDS", 1.0)
        patch.setattr(lease, "POLL_SECONDS", 0.02)
        crowd = [context.Process(target=contend, args=(path, log)) for _ in range(6)]
        for process in crowd:
            process.start()
        for process in crowd:
            process.join(60)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 12
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        assert (first[0], second[0]) == ("in", "out") and first[1] == second[1], "never two at once"


def test_a_beat_keeps_it_and_a_suspended_holder_learns_that_it_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 1.5)
    path = tmp_path / "lease"
    first = Lease(path)
    assert first.acquire()
    began = (read_lease(path) or {})["beat"]
    time.sleep(1.7)
    assert (read_lease(path) or {})["beat"] > began and not Lease(path).acquire(wait=False)
    # As if it had been suspended for long, and another machine had taken over.
    path.write_text(json.dumps({"owner": "other", "host": "elsewhere", "pid": 1, "beat": 1}))
    deadline = time.monotonic() + 5
    while not first.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first.lost
    first.release()
    assert (read_lease(path) or {})["owner"] == "other", "what is another's is not given back"

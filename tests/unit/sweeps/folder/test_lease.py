"""Leases: one holder among processes, taken over from a dead one and by one heir only."""

from __future__ import annotations

import errno
import itertools
import json
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from drorae.runtime.repeat import every
from drorae.storage.remote import Remote
from sweeps.folder import lease
from sweeps.folder.lease import Lease, LeaseLostError, are_live, read_lease


def hold(place: Path | Remote, ready: Event) -> None:
    Lease(place).acquire()
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


@pytest.mark.slow
def test_a_living_holder_keeps_it_and_a_killed_one_leaves_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is told by waiting.
    monkeypatch.setattr(lease, "WATCH_SECONDS", math.inf)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", math.inf)
    path = tmp_path / "lease"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(path, ready))
    holder.start()
    assert ready.wait(300) and are_live([path]) == [True]
    assert not Lease(path).acquire(wait=False)
    assert (read_lease(path) or {})["pid"] == holder.pid
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    holder.join()
    assert are_live([path]) == [False]
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
            process.join(300)
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
    deadline = time.monotonic() + 300
    while not first.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first.lost
    first.release()
    assert (read_lease(path) or {})["owner"] == "other", "what is another's is not given back"


def outlast(path: Path, ready: Event, told: Queue[tuple[bool, bool]]) -> None:
    """Holds the lease until it is lost; tells whether that was noticed, and whether the file was made again."""
    held = Lease(path)
    held.acquire()
    ready.set()
    deadline = time.monotonic() + 300
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    # A few beats more: one that does not know would write now.
    time.sleep(0.3)
    told.put((held.lost, path.exists()))


def test_a_suspended_holder_stops_and_never_makes_the_lease_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 1.0)
    path = tmp_path / "lease"
    context = multiprocessing.get_context("fork")
    ready, told = context.Event(), context.Queue()
    holder = context.Process(target=outlast, args=(path, ready, told))
    holder.start()
    assert ready.wait(300)
    os.kill(int(holder.pid or 0), signal.SIGSTOP)
    heir = Lease(path)
    assert heir.acquire(wait=False)
    heir.release()
    assert not path.exists()
    os.kill(int(holder.pid or 0), signal.SIGCONT)
    assert told.get(timeout=300) == (True, False)
    holder.join()


def test_who_works_on_behalf_of_a_holder_stops_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    path = tmp_path / "trial" / "worker.lease"
    with Lease(path) as holder:
        holder.acquire()
        helper = pickle.loads(pickle.dumps(holder))
        helper.check()
        path.unlink()
        time.sleep(0.3)
        for each in (holder, helper):
            with pytest.raises(LeaseLostError, match=r"trial: another process took this over .* this one stops"):
                each.check()
    assert not path.exists()


def test_what_goes_wrong_after_a_takeover_is_known_to_come_of_it(tmp_path: Path) -> None:
    """The last look was too short ago for another one while all goes well."""
    with Lease(tmp_path / "lease") as holder:
        holder.acquire()
        helper = pickle.loads(pickle.dumps(holder))
        helper.check(now=True)
        (tmp_path / "lease").unlink()
        helper.check()
        for each in (holder, helper):
            with pytest.raises(LeaseLostError):
                each.check(now=True)


def write(path: Path, beat: int) -> None:
    """A lease of a process on another machine."""
    path.write_text(json.dumps({"owner": "other", "host": "elsewhere", "pid": 1, "beat": beat}))


def test_a_silent_holder_that_cannot_be_seen_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.5)
    write(tmp_path / "lease", 7)
    with Lease(tmp_path / "lease") as heir:
        assert heir.acquire(wait=False)


@pytest.mark.parametrize("ahead", [7200.0, 0.0, -7200.0])
def test_what_is_held_elsewhere_is_told_by_its_beat_and_by_no_clock(
    tmp_path: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.02)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    beating, silent, filled, empty = (tmp_path / name for name in ("beating", "silent", "filled", "empty"))
    for path in (beating, silent):
        write(path, 1)
        os.utime(path, (now() - ahead, now() - ahead))
    for path in (filled, empty):
        path.touch()
    beats = itertools.count(2)

    def beat() -> None:
        number = next(beats)
        write(beating, number)
        write(filled, number)

    with every(0.1, beat):
        assert are_live([beating, silent, filled, empty, tmp_path / "none"]) == [True, False, True, False, False]


def test_an_heir_that_died_over_it_is_outlived_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.4)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.02)
    write(tmp_path / "lease", 1)
    mark = tmp_path / ".lease.heir-of-other"
    mark.write_text("heir")
    os.utime(mark, (0, 0))
    began = time.monotonic()
    with Lease(tmp_path / "lease") as mine:
        assert mine.acquire() and time.monotonic() - began > 2 * 0.4, "it had its time"


def test_a_disk_without_hard_links_holds_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "lease"
    with Lease(path) as mine:
        assert mine.acquire(wait=False) and are_live([path]) == [True]
    assert not list(tmp_path.iterdir())


def test_a_lease_that_is_not_filled_yet_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lease"
    path.touch()
    other = json.dumps({"owner": "other", "host": "elsewhere", "pid": 1, "beat": 1})
    threading.Timer(1.0, lambda: path.write_text(other)).start()
    assert not Lease(path).acquire(wait=False)
    path.write_text("")
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.5)
    with Lease(path) as heir:
        assert heir.acquire(wait=False)


@pytest.mark.slow
def test_a_lease_in_a_store_is_kept_by_the_living_and_left_by_the_dead(
    store: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = store / "lease" / "driver.lease"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(at, ready))
    holder.start()
    assert ready.wait(300) and are_live([at]) == [True]
    assert not Lease(at).acquire(wait=False)
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    holder.join()
    assert are_live([at]) == [False]
    mine = Lease(at)
    assert mine.acquire(wait=False) and (read_lease(at) or {})["owner"] == mine.owner
    # Another machine's, which sends no beat any more.
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.5)
    mine.release()
    at.write(b'{"owner": "gone", "host": "elsewhere", "pid": 1, "beat": 7}')
    heir = Lease(at)
    assert heir.acquire(wait=False)
    heir.release()
    assert at.parent.files() == {} and read_lease(at) is None

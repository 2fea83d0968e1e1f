"""Trials that have ended are recorded beside those that run."""

from __future__ import annotations

import threading
import time

import pytest

from sweeps.tracking import backlog
from sweeps.tracking.backlog import Backlog


def test_it_is_gone_through_beside_the_work_and_to_its_end() -> None:
    done: list[str] = []
    free = threading.Event()

    def record(key: str) -> bool:
        free.wait()
        done.append(key)
        return True

    waiting = Backlog(record)
    for number in range(20):
        waiting.add(str(number))
    assert done == [], "adding waits for nothing"
    free.set()
    waiting.close(hurried=False)
    assert sorted(done, key=int) == [str(number) for number in range(20)]


def test_in_a_hurry_only_what_is_under_way_is_ended() -> None:
    begun: list[str] = []

    def record(key: str) -> bool:
        begun.append(key)
        time.sleep(0.3)
        return True

    waiting = Backlog(record)
    for number in range(50):
        waiting.add(str(number))
    while len(begun) < backlog.THREADS:
        time.sleep(0.01)
    waiting.close(hurried=True)
    assert len(begun) == backlog.THREADS


def test_a_store_that_is_away_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "THREADS", 1)
    tried: list[str] = []

    def away(key: str) -> bool:
        tried.append(key)
        return False

    waiting = Backlog(away)
    for key in ("a", "b", "c"):
        waiting.add(key)
    waiting.close(hurried=False)
    assert tried == ["a"]


def test_what_one_trial_raises_costs_the_others_nothing() -> None:
    done: list[str] = []

    def record(key: str) -> bool:
        if key == "broken":
            raise KeyError(key)
        done.append(key)
        return True

    waiting = Backlog(record)
    for key in ("broken", *"abcdef"):
        waiting.add(key)
    waiting.close(hurried=False)
    assert sorted(done) == list("abcdef")

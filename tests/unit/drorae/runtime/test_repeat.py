"""What is done again and again ends with its block."""

from __future__ import annotations

import threading
import time

import pytest

from drorae.runtime.repeat import every


def test_an_action_is_repeated_until_the_block_ends_however_it_ends() -> None:
    thrice, calls = threading.Event(), []

    def act() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 3:
            thrice.set()

    with pytest.raises(KeyError), every(0.01, act):
        assert thrice.wait(300)
        raise KeyError
    after = len(calls)
    time.sleep(0.1)
    assert len(calls) == after and threading.current_thread() not in calls


def test_a_block_that_is_over_before_the_first_call_waits_for_none() -> None:
    with every(threading.TIMEOUT_MAX, lambda: pytest.fail("too early")):
        pass

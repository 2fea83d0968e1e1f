"""Trials that make no step: after how long, and what becomes of them."""

from __future__ import annotations

import time

import pytest

from sweeps.driver.stalls import APART_SECONDS, LEAST_SECONDS, Stalls, silence, stall_seconds

STEP = {"running": True, "phase": "phase2", "step": 5, "total_steps": 10, "reported": 1.0}


@pytest.mark.parametrize(
    ("progress", "minutes", "limit"),
    [
        ({"running": True}, 0.0, None),
        ({"running": True}, 5.0, 300.0),
        (STEP, 0.0, LEAST_SECONDS),
        (STEP | {"slowest_seconds": 600.0}, 0.0, 12000.0),
        (STEP | {"slowest_seconds": 600.0}, 5.0, 300.0),
        (STEP | {"step": 10}, 0.0, APART_SECONDS),
        ({"running": True, "phase": "evaluation", "trained_seconds": 1e5}, 0.0, 1e5),
    ],
)
def test_how_long_is_too_long_goes_by_the_trials_own_pace(
    progress: dict[str, object], minutes: float, limit: float | None
) -> None:
    assert stall_seconds(progress, minutes) == limit


def test_a_trial_that_makes_no_step_is_found_once_by_the_drivers_clock() -> None:
    made = Stalls(1.0)
    assert made.look("a", STEP, 0.0) == "" and made.look("a", STEP, 59.0) == ""
    assert made.look("a", STEP | {"step": 6}, 61.0) == "" and made.look("a", STEP | {"step": 6}, 100.0) == ""
    said = made.look("a", STEP | {"step": 6}, 121.0)
    assert said == "no step for 60 s (at phase2 6); its worker was ended"
    assert made.look("a", STEP | {"step": 6}, 122.0) == "", "it begins anew"
    assert made.look("b", {}, 0.0) == made.look("b", {}, 1e6) == "", "one that waits for its turn has not stalled"


def test_a_stall_is_shown_before_it_is_acted_upon() -> None:
    assert silence(STEP | {"reported": time.time() - 0.6 * LEAST_SECONDS}) == "no step for 18 min"
    assert silence(STEP | {"reported": time.time()}) == silence({"phase": "phase2"}) == ""

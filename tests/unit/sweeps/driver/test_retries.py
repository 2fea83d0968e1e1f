"""How often what fails is tried again."""

from __future__ import annotations

from sweeps.driver.retries import Retries


def test_progress_starts_the_count_anew() -> None:
    made = Retries(2)
    made.begin("a", {})
    # Each attempt dies one step further than the last.
    assert all(made.goes_on("a", {"phase2": step}) for step in range(1, 30))
    assert made.goes_on("a", {"phase2": 29}) and not made.goes_on("a", {"phase2": 29})
    made = Retries(2)
    assert made.goes_on("a", {"phase2": 9}) and made.goes_on("a", {"phase2": 9})
    assert made.goes_on("a", {"phase2": 9, "phase3": 0}), "a later phase is further, whatever the step"


def test_without_progress_so_many_retries_are_made() -> None:
    made = Retries(3)
    assert [made.goes_on("a", {}) for _ in range(4)] == [True, True, True, False]
    assert [Retries(1).goes_on("a", {}), Retries(0).goes_on("a", {"phase1": 1})] == [True, False]


def test_what_earlier_calls_reached_is_no_progress_and_a_machine_taken_away_does_not_count() -> None:
    made = Retries(1)
    made.begin("a", {"phase2": 50})
    made.begin("a", {"phase2": 0})
    assert all(made.goes_on("a", {"phase2": 50}, counts=False) for _ in range(9))
    assert made.goes_on("a", {"phase2": 50}) and not made.goes_on("a", {"phase2": 50})

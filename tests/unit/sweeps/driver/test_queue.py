"""A list of trials is asked for in order, and is over once the last has ended."""

from __future__ import annotations

from sweeps.driver.queue import Listed


def test_trials_come_in_order_and_the_end_waits_for_those_that_run() -> None:
    listed = Listed(["a", "b"])
    assert listed.total == 2 and not listed.finished
    assert [listed.ask(), listed.ask(), listed.ask()] == ["a", "b", None]
    listed.tell("a")
    assert not listed.finished and listed.total == 2
    listed.tell("b")
    assert listed.finished
    assert Listed([]).finished


def test_what_a_pack_s_first_trial_trains_waits_for_it_and_the_rest_does_not() -> None:
    listed = Listed(["a", "b", "c", "d"], {"a": ("b", "c")})
    assert [listed.ask(), listed.ask(), listed.ask()] == ["a", "d", None] and not listed.finished
    # Whatever became of it.
    listed.tell("a")
    assert [listed.ask(), listed.ask(), listed.ask()] == ["b", "c", None]

"""Rows that a phase keeps: a bounded number, of those that it reports."""

from __future__ import annotations

import pytest

from drorae.training.rows import HELD_OUT_PSNR, MOST_ROWS, PASSING, Spread, is_held_out, is_kept, steps_between


@pytest.mark.parametrize(
    ("log_steps", "total", "expected"),
    [(10, 4, 10), (10, 10_000, 10), (10, 10_001, 20), (10, 10**6, 1000), (1, 1500, 2), (5000, 10**6, 5000)],
)
def test_rows_lie_as_far_apart_as_the_user_says_and_the_bound_asks(log_steps: int, total: int, expected: int) -> None:
    assert steps_between(log_steps, total) == expected


def test_a_phase_never_keeps_more_rows_than_the_bound() -> None:
    for log_steps in (1, 3, 10, 77):
        for total in (1, 999, 1000, 1001, 9_999, 10_007, 123_457, 10**6):
            every = steps_between(log_steps, total)
            kept = total // every + (total % every > 0)
            assert every % log_steps == 0 and kept <= MOST_ROWS, "the last is kept in any case"


def test_fewer_may_be_kept_and_rows_of_held_out_images_are_told_apart() -> None:
    assert steps_between(10, 10_000, 20) == 500 and steps_between(10, 10_000, 7) == 1430
    assert is_held_out({"phase": "phase2", "step": 3.0, HELD_OUT_PSNR: 20.0})
    assert not is_held_out({"phase": "phase2", "step": 3.0, "loss": 0.1})


@pytest.mark.parametrize(("every", "total"), [(1, 7), (3, 100), (10, 1005), (100, 100_000)])
def test_a_reader_who_takes_fewer_gets_the_same_ones_every_time(every: int, total: int) -> None:
    steps = [*range(every, total, every), total]
    chosen = []
    for _ in range(2):
        spread = Spread(50)
        rows = [
            {"phase": phase, "step": step, "total_steps": total} for phase in ("phase2", "phase3") for step in steps
        ]
        taken = [row for row in rows if spread.takes(row)]
        assert [row for row in taken if spread.takes(row)] == [], "reported again, as after a resume"
        chosen.append([row["step"] for row in taken])
    assert chosen[0] == chosen[1] and chosen[0].count(total) == 2
    half = chosen[0][: len(chosen[0]) // 2]
    assert half * 2 == chosen[0] and min(len(steps), 26) <= len(half) <= 51
    assert len(steps) > 51 or half == steps
    assert spread.takes({"phase": "phase2", "step": 1.0, HELD_OUT_PSNR: 20.0})


def test_a_row_says_itself_whether_it_is_kept() -> None:
    row: dict[str, float | str] = {"phase": "phase2", "step": 10.0, "loss": 0.5}
    assert is_kept(row) and not is_kept(row | {PASSING: 1.0})

"""Learning rates and orders of items, as functions of a step's number."""

from __future__ import annotations

import math

import pytest

from drorae.config import PhaseConfig
from drorae.training.schedule import epoch_order, learning_rate


def test_learning_rate_warms_up_and_ends_where_it_should() -> None:
    settings = PhaseConfig(epochs=1, lr=1.0, final_lr=0.1, warmup_steps=10)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[54] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (54 - 10) / 89)) / 2)


def test_order_depends_on_seed_phase_and_epoch_only() -> None:
    assert (epoch_order(1, 2, 3, 50) == epoch_order(1, 2, 3, 50)).all()
    assert sorted(epoch_order(1, 2, 3, 50)) == list(range(50))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert (epoch_order(*other, 50) != epoch_order(1, 2, 3, 50)).any()

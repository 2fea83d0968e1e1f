"""Learning rates and orders of items, as functions of a step's number."""

from __future__ import annotations

import math

import pytest

from drorae.config import PhaseConfig
from drorae.training.schedule import epoch_order, learning_rate, step_seed


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


def test_a_warm_up_longer_than_the_phase_is_half_of_it() -> None:
    settings = PhaseConfig(epochs=1, lr=1.0, final_lr=0.0, warmup_steps=1000)
    rates = [learning_rate(settings, step, 10) for step in range(10)]
    assert max(rates) == rates[5] == 1.0 and rates[-1] == pytest.approx(0)
    assert learning_rate(settings, 0, 1) == 1.0


def test_every_step_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, phase, step) for seed in range(3) for phase in (1, 2) for step in range(50)}
    assert len(seeds) == 300 and step_seed(1, 2, 3) == step_seed(1, 2, 3)

"""Verdicts and predictions of values that are each the best of several: truths that are known, by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.chosen import WITHOUT, heed_choice
from analysis.inference.predict import forecast
from analysis.inference.verdicts import Verdict, verdicts
from analysis.table.columns import arrange

SIZES = np.geomspace(1e5, 3e7, 6)


def tuned(slope: float, rng: np.random.Generator, numbers: tuple[int, ...] = (1, 1, 2, 4, 16, 64)) -> Analysis:
    """Sizes of which the larger were tried with more learning rates, none of which matters; seeds scatter by 0.1."""
    rows = [
        (size, seed, 10.0**-k, 2 + slope * np.log10(size) + rng.normal(0, 0.1))
        for size, number in zip(SIZES, numbers, strict=True)
        for seed in (0, 1)
        for k in range(number)
    ]
    frame = pd.DataFrame(rows, columns=["params", "seed", "lr", "rfid"])
    return analyse(arrange(frame, best_of=["lr"]), "params", "rfid")


def test_a_trend_that_choosing_made_is_not_called_supported() -> None:
    rng, own, heeded = np.random.default_rng(0), 0, 0
    for _ in range(20):
        found = tuned(0.0, rng)
        own += verdicts(found.comparison)[0].verdict == "supported"
        heeded += found.verdicts[0].verdict == "supported"
    assert heeded <= 1 < 10 <= own, f"{heeded} and {own} of 20"


def test_predictions_hold_a_run_of_the_chosen_settings() -> None:
    rng, own, joined = np.random.default_rng(1), 0, 0
    for _ in range(25):
        found = tuned(-0.05, rng)
        new = 2 - 0.05 * np.log10(3e7) + rng.normal(0, 0.1)
        low, high = forecast(found.comparison, 3e7).of_run
        own += low <= new <= high
        low, high = found.predict(3e7).of_run
        joined += low <= new <= high
    assert joined >= 23 > own, f"{joined} and {own} of 25"


def test_all_answers_are_joined() -> None:
    found = tuned(-0.05, np.random.default_rng(2))
    other = found.unflattered
    assert other is not None and other.unflattered is None
    assert found.horizon.high == min(found.comparison.horizon.high, other.horizon.high)
    reached = [law for law, *_ in found.target(1.5).laws]
    assert any(WITHOUT in law for law in reached) and not all(WITHOUT in law for law in reached)
    made = found.predict(2e7)
    plain, own = other.predict(2e7), forecast(found.comparison, 2e7)
    assert made.of_run == (min(plain.of_run.low, own.of_run.low), max(plain.of_run.high, own.of_run.high))
    nothing = tuned(-0.05, np.random.default_rng(2), (1,) * 6)
    assert nothing.predict(2e7).of_run == forecast(nothing.comparison, 2e7).of_run


def test_verdicts_agree_or_are_undecided() -> None:
    yes, no = Verdict("a", "supported", "r"), Verdict("a", "not supported", "s")
    assert heed_choice((yes,), (yes,)) == (yes,)
    (both,) = heed_choice((yes,), (no,))
    assert both.verdict == "undecided" and "other seeds" not in both.reason and both.would_decide
    assert "not supported: s" in both.reason and heed_choice((yes,), ())[0].verdict == "undecided"

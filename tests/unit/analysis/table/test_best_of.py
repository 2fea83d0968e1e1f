"""The best of what was tried at a size and seed, and an interval that knows of the choice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.laws.line import fit_line
from analysis.table.best_of import Best, choose_best
from analysis.table.columns import arrange
from analysis.table.selection import select
from drorae.errors import UserError

NONE = np.array([])
SIZES = np.geomspace(1e5, 3e7, 6)


def tries(numbers: list[int], rng: np.random.Generator, sd: float = 0.1) -> pd.DataFrame:
    """Each size with two seeds and so many learning rates, none of which matters."""
    rows = [
        (size, seed, 10.0**-k, 2 - 0.1 * np.log10(size) + rng.normal(0, sd))
        for size, number in zip(SIZES, numbers, strict=True)
        for seed in (0, 1)
        for k in range(number)
    ]
    return pd.DataFrame(rows, columns=["params", "seed", "lr", "rfid"])


def test_flattery_is_the_bootstrap_s() -> None:
    tried = np.array([1.0, 1.3, 2.0, 2.1])
    drawn = np.random.default_rng(0).choice(tried, (200_000, 4)).min(axis=1)
    assert Best(0, tried, NONE).flattery == pytest.approx(drawn.mean() - 1.0, abs=0.003)
    assert Best(0, -tried, NONE).flattery == pytest.approx(1.0 - drawn.mean(), abs=0.003)
    assert Best(0, tried[:1], tried).flattery == 0
    assert Best(0, tried, np.array([1.4, 1.6])).flattery == pytest.approx(0.5)


def test_the_best_row_of_each_size_and_seed_is_taken_and_the_others_are_named() -> None:
    frame = arrange(tries([3] * 6, np.random.default_rng(1)), best_of=["lr"])
    chosen = select(frame, "params", "rfid")
    wanted = frame.groupby(["params", "seed"])["rfid"].min().to_numpy()
    np.testing.assert_array_equal(chosen.y, wanted)
    assert len(chosen.excluded) == 24 and chosen.configurations.max() == 5
    assert {reason for _, reason in chosen.excluded} == {"tried; another lr was better at this size and seed"}
    assert chosen.take(chosen.x > 1e6).flattery == pytest.approx(chosen.flattery[chosen.x > 1e6])
    told = {item.code: item.message for item in analyse(frame, "params", "rfid").cautions}
    assert "best of 3 runs over lr, which flatters it" in told["best-of"]


def test_other_settings_are_still_refused_and_the_direction_is_asked_for() -> None:
    frame = tries([2] * 6, np.random.default_rng(1))
    both = pd.concat([frame.assign(schedule="cosine"), frame.assign(schedule="linear")])
    with pytest.raises(UserError, match="differ in schedule"):
        select(arrange(both, best_of=["lr"]), "params", "rfid")
    assert len(select(arrange(both, best_of=["lr"], configuration=["schedule"]), "params", "rfid").x) == 24
    unknown = frame.rename(columns={"rfid": "quality"})
    with pytest.raises(UserError, match="--better lower or higher"):
        select(arrange(unknown, best_of=["lr"]), "params", "quality")
    found = select(arrange(unknown, best_of=["lr"], better="higher"), "params", "quality")
    np.testing.assert_array_equal(found.y, unknown.groupby(["params", "seed"])["quality"].max())
    with pytest.raises(UserError, match="no such column"):
        arrange(frame, best_of=["rate"])
    y = frame["rfid"].to_numpy()
    seeds = frame["seed"].astype(str).tolist()
    table = arrange(frame, best_of=["lr"])
    assert len(choose_best(table, frame["params"].to_numpy(), y, seeds, "rfid")) == 12


def test_the_interval_of_the_slope_holds_where_larger_sizes_were_tried_more_often() -> None:
    rng, held, naive = np.random.default_rng(0), 0, 0
    for _ in range(200):
        line = fit_line(select(arrange(tries([1, 1, 2, 2, 8, 8], rng), best_of=["lr"]), "params", "rfid"))
        low, high = line.slope_ci95
        held += low <= -0.1 <= high
        low, high = line.regression.conf_int()[1]
        naive += low <= -0.1 <= high
    assert held >= 181 > naive, f"{held} and {naive} of 200"


@pytest.mark.parametrize(("seeds", "alone"), [((0,), "6 of 6"), ((0, 1), "")])
def test_one_seed_per_setting_is_said_to_be_too_little(seeds: tuple[int, ...], alone: str) -> None:
    """With no other seed only a bootstrap says what choosing adds, which is too little where settings do not matter."""
    frame = tries([3] * 6, np.random.default_rng(1))
    found = analyse(arrange(frame[frame["seed"].isin(seeds)], best_of=["lr"]), "params", "rfid")
    (said,) = (item.message for item in found.cautions if item.code == "best-of")
    assert ("chosen with one seed per setting" in said) == ("two seeds or more" in said) == bool(alone)
    assert alone in said

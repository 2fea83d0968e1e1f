"""Pairs to run next: against all designs there are, against the intervals of a fit, and for their cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from analysis.inference import pair_plan
from analysis.inference.axes import JointAnalysis, analyse_axes
from analysis.inference.pair_plan import (
    PairCost,
    PairGoal,
    PairProposal,
    candidates,
    measured_pair_cost,
    propose_pairs,
)
from analysis.laws.intervals import law_interval, parameter_intervals
from drorae.errors import UserError

GRID = [(p, d) for p in np.geomspace(1e6, 1e8, 3) for d in np.geomspace(1e7, 1e9, 4)]
CROSS = [(p, 1e8) for p in np.geomspace(1e6, 1e8, 5)] + [(1e7, d) for d in np.geomspace(1e7, 1e9, 5) if d != 1e8]


def table(pairs: list[tuple[float, float]], powers: bool = False, seeds: int = 1, sd: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n, d = np.array(pairs).T
    y = 0.5 + 40 * n**-0.3 + 60 * d**-0.35 if powers else 3 - 0.2 * np.log10(n) - 0.1 * np.log10(d)
    rows = [
        pd.DataFrame({"params": n, "tokens": d, "loss": y + rng.normal(0, sd, len(n)), "seed": k}) for k in range(seeds)
    ]
    return pd.concat(rows, ignore_index=True)


def analysed(frame: pd.DataFrame) -> JointAnalysis:
    return analyse_axes(frame, "params", "tokens:log", "loss")


def widths_by_fitting(found: JointAnalysis, made: PairProposal) -> list[float]:
    """What the intervals are with the runs proposed, as a fit of old and new points has them, of a scatter as now."""
    fit = {"slope": found.additive, "interaction": found.crossed, "prediction": found.fits[0]}[made.goal]
    assert fit is not None
    sample = found.sample
    x = np.vstack([sample.x, made.pairs])
    # Any values whose residuals are as large: the old ones', scaled, in a direction that the law does not take up.
    gradient = fit.form.gradient(x, fit.parameters)
    left = np.random.default_rng(0).normal(size=len(x))
    left -= gradient @ np.linalg.lstsq(gradient, left, rcond=None)[0]
    left *= fit.residual_sd * math.sqrt(len(x) - gradient.shape[1]) / np.linalg.norm(left)
    again = analysed(pd.DataFrame({"params": x[:, 0], "tokens": x[:, 1], "loss": fit.value(x) + left})).find(fit.name)
    assert again is not None
    if made.at is not None:
        (low,), (high,) = law_interval(again, np.array([made.at]))
        return [float(high - low)]
    ends = parameter_intervals(again)
    return [ends[name].high - ends[name].low for name in made.names]


@pytest.mark.parametrize("goal", ["slope", "interaction", "prediction"])
@pytest.mark.parametrize("powers", [False, True])
def test_no_other_design_of_the_grid_is_better(goal: PairGoal, powers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_plan, "STEPS", 3)
    found = analysed(table(GRID, powers, sd=0.002 if powers else 0.02))
    at = (5e8, 5e9) if goal == "prediction" else None
    made = propose_pairs(found, goal, PairCost(1.0), 3, at)
    assert len(made.pairs) == 3 and not made.reached
    question = pair_plan._Question(found, goal, at, 1)
    rows = question.rows(candidates(found.sample.x))
    best = min(question.merit(rows[list(chosen)]) for chosen in itertools.combinations(range(len(rows)), 3))
    assert question.merit(question.rows(np.array(made.pairs))) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize(("goal", "at"), [("slope", None), ("interaction", None), ("prediction", (3e8, 3e9))])
def test_the_width_promised_is_that_of_a_fit_with_the_new_runs(goal: PairGoal, at: tuple[float, float] | None) -> None:
    found = analysed(table(GRID))
    made = propose_pairs(found, goal, PairCost(1.0), 6, at)
    np.testing.assert_allclose(made.steps[-1].widths, widths_by_fitting(found, made), rtol=1e-6)
    ends = parameter_intervals(found.additive)
    if goal == "slope":
        assert made.widths_now == pytest.approx([ends[name].high - ends[name].low for name in ("b", "c")])


def test_the_goal_is_reached_with_the_fewest_runs_of_a_larger_budget() -> None:
    found = analysed(table(GRID))
    made = propose_pairs(found, "interaction", PairCost(1.0), 60)
    assert made.reached and len(made.pairs) < 20
    assert made.steps[-1].widths[0] <= made.widths_now[0] / 2 < made.steps[-2].widths[0]
    assert made.steps[-1].seconds == len(made.pairs)
    assert len(set(made.pairs)) == len(made.pairs), "no pair twice"


def test_an_interaction_that_no_run_shows_yet_wants_the_corners() -> None:
    made = propose_pairs(analysed(table(CROSS)), "interaction", PairCost(1.0), 4)
    assert made.widths_now == (math.inf,) and math.isfinite(made.steps[0].widths[0]) and not made.reached
    assert {(n / 1e6 < 1, d < 1e8) for n, d in made.pairs} >= {(True, True), (True, False)}
    widths = [step.widths[0] for step in made.steps]
    assert widths == sorted(widths, reverse=True)


def test_dear_pairs_are_avoided_and_the_budget_is_kept() -> None:
    found = analysed(table(GRID))
    cost = PairCost(1.0, both=6e-16)
    made = propose_pairs(found, "slope", cost, 200)
    assert made.steps[-1].seconds <= 200 and max(cost(np.array([pair]))[0] for pair in made.pairs) <= 200
    free = propose_pairs(found, "slope", PairCost(1.0), len(made.pairs))
    assert cost(np.array(made.pairs)).sum() < cost(np.array(free.pairs)).sum()
    with pytest.raises(UserError, match="buy no run, which takes 1.00"):
        propose_pairs(found, "slope", cost, 0.5)


def test_a_cost_is_that_of_the_runs_measured() -> None:
    pairs = np.array(GRID)
    found = measured_pair_cost(pairs, 30 + 2e-15 * pairs.prod(axis=1))
    assert found.fixed == pytest.approx(30) and found.both == pytest.approx(2e-15)
    assert (found.first, found.second) == pytest.approx((0, 0), abs=1e-12)
    with pytest.raises(UserError, match="no run has a duration"):
        measured_pair_cost(pairs, np.zeros(len(pairs)))


def test_seeds_of_a_pair_help_as_far_as_seeds_are_the_scatter() -> None:
    found = analysed(table(GRID, seeds=3))
    one, three = (propose_pairs(found, "slope", PairCost(1.0), 4 * seeds, seeds=seeds) for seeds in (1, 3))
    assert len(one.pairs) == len(three.pairs) == 4 and three.steps[-1].seconds == 12
    assert three.steps[-1].widths[0] < one.steps[-1].widths[0]


def test_what_may_be_run_is_whole_where_sizes_are_and_within_its_bounds() -> None:
    measured = np.array([(p, n) for p in (100.0, 1000.0, 10000.0) for n in (2.0, 4.0, 8.0)])
    free = candidates(measured)
    assert set(free[:, 1]) == {2, 3, 4, 5, 6, 7, 8}
    assert (free[:, 0].min(), free[:, 0].max()) == (25, 40000)
    assert not {tuple(pair) for pair in free} & {tuple(pair) for pair in measured}
    asked = candidates(measured, (50, None), (1, 12))
    assert asked[:, 0].min() == 50 and (asked[:, 1].min(), asked[:, 1].max()) == (1, 12)
    with pytest.raises(UserError, match="no sizes between 9 and 8"):
        candidates(measured, second=(9, None))
    with pytest.raises(UserError, match="needs the pair"):
        propose_pairs(analysed(table(GRID)), "prediction", PairCost(1.0), 4)

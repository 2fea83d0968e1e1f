"""What a design could show before any run, against closed forms and against sweeps that are simulated and fitted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference.blind import SEEN, Supposed, beside, margin, outlooks, saturating
from analysis.inference.evidence import bend
from analysis.inference.plan import Design
from analysis.laws.intervals import run_interval
from analysis.laws.line import fit_line
from analysis.laws.noise import Uncertainty, replication
from analysis.table.selection import select
from drorae.errors import UserError


@pytest.mark.parametrize(("levels", "decades", "slope"), [(4, 1.0, -0.06), (6, 2.0, -0.01), (12, 3.0, 0.004)])
def test_one_seed_is_the_noncentral_t(levels: int, decades: float, slope: float) -> None:
    sd, sizes = 0.01, np.logspace(6, 6 + decades, levels)
    found = outlooks(Supposed(slope, sd), list(sizes), 1, 0.3)[0]
    u = np.log10(sizes)
    sxx, free = float(np.sum((u - u.mean()) ** 2)), levels - 2
    t = stats.t.ppf(0.975, free)

    def power(size: float) -> float:
        delta = abs(size) * math.sqrt(sxx) / sd
        return float(stats.nct.sf(t, free, delta) + stats.nct.cdf(-t, free, delta))

    # E s = sd c4, of a chi distribution.
    mean_sd = sd * float(stats.chi.mean(free)) / math.sqrt(free)
    ahead = math.sqrt(1 + 1 / levels + (u[-1] + 0.3 - u.mean()) ** 2 / sxx)
    assert found.power == pytest.approx(power(slope), abs=0.002)
    assert power(found.least_slope) == pytest.approx(SEEN, abs=0.002)
    assert found.slope_width == pytest.approx(2 * t * mean_sd / math.sqrt(sxx), rel=0.003)
    assert found.prediction_width == pytest.approx(2 * t * mean_sd * ahead, rel=0.003)


def test_scatter_of_configurations_alone_makes_seeds_worth_nothing() -> None:
    sizes = list(np.logspace(0, 2, 6))
    once, often = (outlooks(Supposed(-0.01, 1e-9, 0.01), sizes, seeds)[0] for seeds in (1, 4))
    assert often.power == pytest.approx(once.power, abs=1e-3)
    assert often.slope_width == pytest.approx(once.slope_width, rel=1e-3)


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("own", [0.0, 2.0])
@pytest.mark.parametrize("new", [0, 1])
def test_margins_are_those_of_the_fit(seeds: int, own: float, new: int) -> None:
    rng = np.random.default_rng(3)
    x = np.logspace(0, 2, 6)
    design = np.column_stack([np.ones(6), np.log10(x)])
    for _ in range(20):
        values = rng.normal(size=(6, seeds)) + own * rng.normal(size=(6, 1))
        known = replication(np.ones(6), values.ravel(), np.repeat(np.arange(6), seeds))
        assert known is not None
        mean = values.mean(axis=1)
        rss = float(np.sum((mean - design @ np.linalg.lstsq(design, mean, rcond=None)[0]) ** 2))
        there = np.array([[1.0, 2.3]])
        kept = Uncertainty(design, np.ones(6), rss, known).margin(there, np.array([1.0]) if new else None)
        share = (there @ np.linalg.inv(design.T @ design) @ there.T).item()
        run = values.var(axis=1, ddof=1).mean()
        variance, dof = margin(share, 4, Design("", tuple(x), seeds), np.array(rss), np.array(run), new)
        assert float(variance) == pytest.approx(float(kept.law[0] + kept.noise[0]), rel=1e-9)
        assert float(dof) == pytest.approx(float(kept.dof[0]), rel=1e-9)


@pytest.mark.parametrize(("seeds", "own", "slope"), [(1, 0.0, -0.02), (3, 0.0, -0.012), (3, 0.01, -0.02)])
def test_simulated_sweeps_show_what_was_foreseen(seeds: int, own: float, slope: float) -> None:
    rng = np.random.default_rng(11)
    supposed = Supposed(slope, 0.015, own, 0.99)
    sizes = np.logspace(6, 8, 7)
    found = outlooks(supposed, list(sizes), seeds, 0.3)[0]
    x, count = np.repeat(sizes, seeds), 150
    frame = pd.DataFrame({"params": x, "rfid": supposed.slope * np.log10(x), "seed": np.tile(np.arange(seeds), 7)})
    # The rows are selected once; what is drawn anew is their values.
    runs = select(frame, "params", "rfid")
    slopes, bends, slope_widths, widths = [], [], [], []
    for _ in range(count):
        noise = rng.normal(0, own, 7).repeat(seeds) + rng.normal(0, supposed.seed_sd, len(x))
        line = fit_line(replace(runs, y=supposed.slope * np.log10(x) + noise))
        low, high = line.slope_ci95
        slopes.append(low > 0 or high < 0)
        slope_widths.append(high - low)
        known = line.sample.replication
        if known is None or not known.trend:
            ends = run_interval(line.curve, line.sample, np.array([1e8 * 10**0.3]))
            widths.append(float(ends[1][0] - ends[0][0]))
        bent = bend(fit_line(replace(runs, y=saturating(supposed, list(sizes), x) + noise)).sample)
        assert bent is not None
        bends.append(bent.resolved)
    assert 0.3 < found.power < 0.95 and found.bend_power > 0.1
    assert np.mean(slopes) == pytest.approx(found.power, abs=3 * math.sqrt(0.25 / count))
    assert np.mean(bends) == pytest.approx(found.bend_power, abs=3 * math.sqrt(0.25 / count))
    assert np.mean(slope_widths) == pytest.approx(found.slope_width, rel=0.08)
    assert np.mean(widths) == pytest.approx(found.prediction_width, rel=0.08)


def test_the_law_that_saturates_loses_its_share_and_keeps_its_mean_slope() -> None:
    supposed, sizes = Supposed(-0.06, 0.01, 0.0, 0.7), [1e6, 1e7, 1e8]
    ends = np.array([1e6, 1e6 * 1.0001, 1e8 / 1.0001, 1e8])
    value = saturating(supposed, sizes, ends)
    first, last = (value[1] - value[0]), (value[3] - value[2])
    assert last / first == pytest.approx(0.3, rel=1e-3)
    assert (value[3] - value[0]) / 2 == pytest.approx(-0.06)


def test_other_designs_cost_no_more_runs_and_face_the_same_truth() -> None:
    asked = Design("as given", tuple(np.logspace(6, 8, 6)), 2)
    others = beside(asked)
    assert {item.name for item in others} == {"more sizes", "fewer sizes", "wider", "ends", "three"}
    assert all(item.runs <= asked.runs for item in others)
    found = {item.design.name: item for item in outlooks(Supposed(-0.01, 0.01), list(asked.sizes), 2)}
    wider, given = found["wider"], found["as given"]
    assert wider.decades == pytest.approx(3) and wider.power > given.power
    assert wider.bend_power > given.bend_power, "farther out the same law bends more"
    assert found["ends"].slope_width < given.slope_width
    assert found["three"].bend_power > given.bend_power


def test_sizes_too_few_for_a_bend_say_so() -> None:
    assert math.isnan(outlooks(Supposed(-0.01, 0.01), [1.0, 10.0, 100.0, 1000.0], 3)[0].bend_power)


@pytest.mark.parametrize(
    ("supposed", "sizes", "seeds"),
    [
        (Supposed(-0.01, 0.0), [1, 2, 3, 4], 1),
        (Supposed(0.0, 0.01), [1, 2, 3, 4], 1),
        (Supposed(-0.01, 0.01), [1, 2, 2, 4], 1),
        (Supposed(-0.01, 0.01), [1, 2], 1),
        (Supposed(-0.01, 0.01), [1, 2, 3, 4], 0),
        (Supposed(-0.01, 0.01, loss=1.0), [1, 2, 3, 4], 1),
    ],
)
def test_what_makes_no_design_is_refused(supposed: Supposed, sizes: list[float], seeds: int) -> None:
    with pytest.raises(UserError, match="expected"):
        outlooks(supposed, sizes, seeds)

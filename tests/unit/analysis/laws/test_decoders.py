"""Lines of several decoders: intervals for these, for new ones and for a run that starts from one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analysis.laws.decoders import decoder_lines
from analysis.table.decoders import crossed_decoders
from analysis.table.selection import Selection, select

U = np.linspace(5, 7, 6)


def selection(rng: np.random.Generator, sds: tuple[float, float], count: int = 4, seeds: int = 1) -> Selection:
    rows = [
        {"phase1_weights": f"w{d}", "params": 10**u, "seed": s, "psnr": a + b * u + rng.normal(0, 0.1)}
        for d in range(count)
        for a, b in [(rng.normal(20, sds[0]), rng.normal(0.5, sds[1]))]
        for u in U
        for s in range(seeds)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs["mix_decoders"] = True
    return select(frame, "params", "psnr")


@pytest.mark.parametrize(("count", "sds", "seeds"), [(4, (0.3, 0.0), 1), (4, (0.3, 0.1), 2), (8, (0.0, 0.05), 1)])
def test_intervals_hold_for_new_decoders(count: int, sds: tuple[float, float], seeds: int) -> None:
    rng, at = np.random.default_rng(2), np.array([1.0, 7.3])
    held, runs = [], selection(rng, sds, count, seeds)
    which = runs.used["phase1_weights"].str[1:].astype(int)
    for _ in range(2000):
        level, tilt = rng.normal(20, sds[0], count)[which], rng.normal(0.5, sds[1], count)[which]
        y = level + tilt * np.log10(runs.x) + rng.normal(0, 0.1, len(which))
        found = decoder_lines(replace(runs, y=y), True)
        assert found is not None and found.count == count
        slope, law, run = found.new(np.array([0.0, 1.0])), found.new(at), found.run(at)
        fresh = rng.normal(20, sds[0]) + rng.normal(0.5, sds[1]) * 7.3 + rng.normal(0, 0.1)
        held.append([s.low <= v <= s.high for s, v in ((slope, 0.5), (law, 20 + 0.5 * 7.3), (run, fresh))])
    assert np.all((np.mean(held, axis=0) >= 0.93) & (np.mean(held, axis=0) <= 0.97)), np.mean(held, axis=0)


def test_decoders_that_are_alike_have_no_sd_of_their_own() -> None:
    found = decoder_lines(selection(np.random.default_rng(0), (0.0, 0.0), 30), True)
    assert found is not None and found.sds[0] < 0.05 and found.sds[1] < 0.05
    several = decoder_lines(selection(np.random.default_rng(0), (1.0, 0.2), 200), True)
    assert several is not None and several.sds[1] == pytest.approx(0.2, rel=0.2)
    assert decoder_lines(selection(np.random.default_rng(0), (0.0, 0.0), 1), True) is None


def test_seeds_of_a_decoder_that_differ_otherwise_are_not_draws() -> None:
    frame = pd.DataFrame({"decoder.seed": [0, 0, 0, 1, 1, 1], "phase1_weights": list("aaabbb"), "x": [1, 2, 3] * 2})
    assert crossed_decoders(frame, "x") and not crossed_decoders(frame.drop(index=4), "x")
    assert not crossed_decoders(frame.assign(**{"decoder.depth": [2, 2, 2, 3, 3, 3]}), "x")
    assert not crossed_decoders(frame.assign(phase1_weights=list("aacbbb")), "x")


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")
def test_means_over_decoders_know_the_scatter_that_is_no_decoder_s() -> None:
    """Against a regression with a line of every decoder and a level of every size."""
    runs = selection(np.random.default_rng(0), (1.0, 0.3), 5)
    found = decoder_lines(runs, True)
    assert found is not None
    made = found.size_means("params", "psnr")
    frame = pd.DataFrame({"y": runs.y, "u": np.log10(runs.x), "d": runs.used["phase1_weights"].to_numpy()})
    whole = smf.ols("y ~ C(d) + C(d):u + C(u)", frame).fit()
    np.testing.assert_allclose(made.y, frame.groupby("u")["y"].mean())
    assert made.seed_dof == whole.df_resid == 16
    assert made.seed_sd == pytest.approx(np.sqrt(whole.mse_resid)) and made.repeats == "decoders"
    assert made.replication is not None
    np.testing.assert_allclose(made.replication.of_means, whole.mse_resid / 5)

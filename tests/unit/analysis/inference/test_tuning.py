"""Sweeps that were tuned at every size: which runs the law is of, and what tuning changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference.analysis import analyse
from analysis.inference.tuning import compare_tuned
from drorae.errors import UserError


def tuned_table(seeds: int = 2, noise: float = 0.01) -> pd.DataFrame:
    """Six sizes: at the largest ones the fixed learning rate is the worse, the larger the more."""
    rng = np.random.default_rng(0)
    rows = []
    for i, size in enumerate([1e5, 3e5, 1e6, 3e6, 1e7, 3e7]):
        for seed in range(seeds):
            lost = 0.3 * max(0, i - 1)
            cases = [("best fixed", 1e-3, 0.0)] if i < 2 else [("best", 1e-4, 0.0), ("fixed", 1e-3, lost)]
            if seed == 0:
                cases.append(("tried", 1e-2, 2.0))
            for role, rate, worse in cases:
                value = 9 - i / 2 + worse + rng.normal(0, noise)
                rows.append({"tuning": role, "params": size, "seed": seed, "phase2.lr": rate, "rfid": value,
                             "status": "finished", "config_hash": f"{i}{seed}{rate}"})  # fmt: skip
    return pd.DataFrame(rows)


def test_the_law_is_one_of_the_best_runs() -> None:
    table = tuned_table()
    found = analyse(table, "params", "rfid")
    assert found.line.n == 12 and found.line.sample.n == 6
    assert {reason for _, reason in found.selection.excluded} == {
        "tried while tuning; another run of this size was better"
    }
    assert found.line.slope == pytest.approx(-1.0, abs=0.05)


def test_best_against_fixed_by_size_on_seeds_nothing_was_chosen_by() -> None:
    table = tuned_table()
    found = compare_tuned(table, "params", "rfid")
    assert (found.sizes, found.moved, found.fresh) == (6, 4, True)
    assert found.values[-1] == (3e7, {"phase2.lr": 1e-4})
    assert found.comparison is not None
    # The same from the differences size by size.
    fresh = table[table["seed"] == 1].set_index("params")["rfid"]
    sizes = sorted(fresh.index.unique())
    gains = [float(fresh[[size]].iloc[0] - fresh[[size]].iloc[-1]) for size in sizes]
    line = stats.linregress(np.log10(sizes), gains)
    slopes = next(item for item in found.comparison.differences if item.what == "slope")
    sign = 1 if (slopes.a, slopes.b) == ("best", "fixed") else -1
    assert sign * slopes.difference == pytest.approx(line.slope)
    half = stats.t.ppf(0.975, len(sizes) - 2) * line.stderr
    # The gains bend, which six of them cannot tell from a scatter that changes with size: then intervals are wider.
    assert any(item.code == "unequal-scatter" for item in found.comparison.cautions)
    assert slopes.ci95[0] < slopes.difference - half and slopes.difference + half < slopes.ci95[1]
    assert any(item.verdict == "supported" for item in found.comparison.verdicts)


def test_one_seed_is_said_to_flatter_and_nothing_moved_is_no_comparison() -> None:
    found = compare_tuned(tuned_table(seeds=1), "params", "rfid")
    assert not found.fresh and "chosen-by-the-metric" in found.text()
    still = tuned_table()
    still = still[still["tuning"] != "best"].assign(tuning=lambda t: t["tuning"].replace("fixed", "best fixed"))
    found = compare_tuned(still, "params", "rfid")
    assert found.moved == 0 and found.comparison is None
    with pytest.raises(UserError, match="tuning"):
        compare_tuned(still.drop(columns="tuning"), "params", "rfid")

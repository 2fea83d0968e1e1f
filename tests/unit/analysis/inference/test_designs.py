"""Comparing designs: statsmodels as the reference, and the errors a family of claims makes."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from calibration.coverage import false_winner
from statsmodels.stats.multitest import multipletests

import analysis.inference.designs
from analysis.inference.designs import DesignComparison, Difference, compare_designs, holm
from drorae.commands.main import main
from drorae.errors import UserError

SIZES = np.geomspace(1e6, 1e8, 6)


def runs(
    slopes: dict[str, float], sd: float = 0.01, seeds: int = 2, seed: int = 0, shared: float = 0.0
) -> pd.DataFrame:
    """Runs of several designs at the same sizes; `shared`: sd of what all designs have in common at a size."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, shared, len(SIZES)) if shared else np.zeros(len(SIZES))
    rows = [
        (name, size, s, 1 + slope * np.log10(size / 1e7) + common[i] + rng.normal(0, sd))
        for name, slope in slopes.items()
        for i, size in enumerate(SIZES)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["variant", "params", "seed", "rfid"])


def pair(found: DesignComparison, what: str, a: str, b: str) -> Difference:
    return next(item for item in found.differences if (item.what, item.a, item.b) == (what, a, b))


def means(frame: pd.DataFrame) -> pd.DataFrame:
    table = frame.groupby(["variant", "params"], as_index=False)["rfid"].mean()
    return table.assign(u=np.log10(table["params"]) - 7, size=table["params"].astype(str))


def test_agrees_with_the_formula_of_statsmodels() -> None:
    frame = runs({"a": -0.05, "b": -0.08, "c": -0.06})
    found = compare_designs(frame, "params", "rfid")
    table = means(frame)
    full = smf.ols("rfid ~ C(variant) * u", table).fit()
    assert found.level_at == pytest.approx(1e7)
    for what, term in (("slope", "C(variant)[T.b]:u"), ("level", "C(variant)[T.b]")):
        item = pair(found, what, "a", "b")
        assert -item.difference == pytest.approx(full.params[term])
        assert item.p_value == pytest.approx(full.pvalues[term])
        assert (-item.ci95[1], -item.ci95[0]) == pytest.approx(tuple(full.conf_int().loc[term]))
        assert item.dof == full.df_resid == 12
    between = full.t_test("C(variant)[T.b]:u - C(variant)[T.c]:u = 0")
    assert pair(found, "slope", "b", "c").t == pytest.approx(between.tvalue.item())
    same = smf.ols("rfid ~ C(variant) + u", table).fit()
    assert found.parallel_p == pytest.approx(full.compare_f_test(same)[1])
    own = smf.ols("rfid ~ u", table[table["variant"] == "a"]).fit()
    assert (found.lines[0].slope, found.lines[0].level) == pytest.approx((own.params["u"], own.params["Intercept"]))
    assert found.lines[0].intercept == pytest.approx(own.params["Intercept"] - 7 * own.params["u"])
    assert (found.lines[0].n, found.lines[0].n_configurations) == (12, 6)


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")
def test_pairs_of_one_size_agree_with_a_size_effect_in_statsmodels() -> None:
    frame = runs({"a": -0.05, "b": -0.08, "c": -0.06}, shared=0.2, seed=3)
    found = compare_designs(frame, "params", "rfid", paired=True)
    full = smf.ols("rfid ~ 0 + size + C(variant) + C(variant):u", means(frame)).fit()
    # With a size effect the slopes are determined up to a common one: their differences are estimable.
    item = pair(found, "slope", "a", "b")
    names = list(full.params.index)
    contrast = np.zeros(len(names))
    contrast[names.index("C(variant)[a]:u" if "C(variant)[a]:u" in names else "C(variant)[T.a]:u")] = 1
    contrast[names.index("C(variant)[b]:u" if "C(variant)[b]:u" in names else "C(variant)[T.b]:u")] = -1
    tested = full.t_test(contrast)
    assert item.difference == pytest.approx(tested.effect.item())
    assert item.ci95 == pytest.approx(tuple(tested.conf_int()[0]))
    assert item.dof == full.df_resid == 8
    unpaired = pair(compare_designs(frame, "params", "rfid"), "slope", "a", "b")
    assert np.ptp(unpaired.ci95) > 5 * np.ptp(item.ci95), "what the designs share hides their difference"


def test_designs_of_their_own_variance() -> None:
    frame = pd.concat([runs({"a": -0.05}, 0.001), runs({"b": -0.08}, 0.05)])
    found = compare_designs(frame, "params", "rfid", errors="separate")
    fits = [smf.ols("rfid ~ u", table).fit() for _, table in means(frame).groupby("variant")]
    variances = [fit.bse["u"] ** 2 for fit in fits]
    item = pair(found, "slope", "a", "b")
    assert item.t == pytest.approx((fits[0].params["u"] - fits[1].params["u"]) / np.sqrt(sum(variances)))
    assert item.dof == pytest.approx(sum(variances) ** 2 / sum(v**2 / 4 for v in variances))
    assert found.lines[1].slope_ci95 == pytest.approx(tuple(fits[1].conf_int().loc["u"]))
    assert "unequal-variance" in [code for code, _ in compare_designs(frame, "params", "rfid").cautions]


def test_holm_is_statsmodels_holm() -> None:
    p = np.random.default_rng(0).uniform(0, 0.1, 7)
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


@pytest.mark.slow
def test_family_of_claims_errs_one_time_in_twenty() -> None:
    """Four equal designs, six pairs: any slope claimed to differ is an error."""
    rng = np.random.default_rng(3)
    frame = runs({"a": -0.05, "b": -0.05, "c": -0.05, "d": -0.05}, seeds=1).drop(columns="seed")
    truth, reps, wrong, plain, outside = -0.05 * np.log10(frame["params"]), 150, 0, 0, 0
    for _ in range(reps):
        found = compare_designs(frame.assign(rfid=truth + rng.normal(0, 0.01, len(frame))), "params", "rfid")
        slopes = [item for item in found.differences if item.what == "slope"]
        wrong += any(item.p_holm < 0.05 for item in slopes)
        plain += any(item.p_value < 0.05 for item in slopes)
        outside += any(not item.simultaneous95[0] <= 0 <= item.simultaneous95[1] for item in slopes)
    # 0.05 and three standard errors of a share of 150.
    assert wrong / reps < 0.103 and outside / reps < 0.103
    assert plain / reps > 0.12, "which without the adjustment they would"


def test_verdicts_say_what_the_runs_can_say() -> None:
    frame = runs({"mean": -0.02, "energy": -0.08}, sd=0.003)
    said = {item.claim: item.verdict for item in compare_designs(frame, "params", "rfid").verdicts}
    assert said["energy scales better than mean"] == "supported"
    assert sum("scales" in claim for claim in said) == 1, "each claim is made once"
    frame["psnr"] = frame["rfid"]
    said = {item.claim: item.verdict for item in compare_designs(frame, "params", "psnr").verdicts}
    assert said["mean scales better than energy"] == "supported", "of a metric that is better when higher"
    noisy = compare_designs(runs({"a": -0.05, "b": -0.06}, sd=0.05), "params", "rfid")
    assert {item.verdict for item in noisy.verdicts if "scales" in item.claim} == {"undecided"}
    assert all(
        "not told from zero" in item.reason and item.would_decide for item in noisy.verdicts if "scales" in item.claim
    )


def test_one_reference_makes_fewer_claims() -> None:
    frame = runs({"a": -0.05, "b": -0.08, "c": -0.06})
    found = compare_designs(frame, "params", "rfid", reference="a")
    assert [(item.a, item.b) for item in found.differences if item.what == "slope"] == [("b", "a"), ("c", "a")]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"variant": "a"}, {}, "only a in 24 usable rows"),
        ({}, {"by": "design"}, "no such column"),
        ({}, {"reference": "z"}, "variant is one of a, b"),
        ({"params": [1e6] * 12 + list(np.repeat(SIZES, 2))}, {}, "a: rfid on params: all runs have params"),
        ({"params": [*np.repeat(SIZES, 2), *np.repeat(SIZES * 1e3, 2)]}, {}, "share no range of params"),
        ({"params": [*np.repeat(SIZES, 2), *np.repeat(SIZES * 2, 2)]}, {"paired": True}, "the same 12 values"),
        ({"eval_images": [100] * 12 + [200] * 12}, {}, "different eval_images"),
    ],
)
def test_what_is_not_compared(change: dict, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compare_designs(runs({"a": -0.05, "b": -0.08}).assign(**change), "params", "rfid", **options)
    assert "\n" not in str(caught.value)


def test_unknown_metrics_need_their_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = runs({"a": -0.02, "b": -0.08}, sd=0.003).rename(columns={"rfid": "score"})
    frame.loc[0, "score"] = np.nan
    frame.to_csv(tmp_path / "runs.csv", index=False)
    arguments = ["compare", str(tmp_path / "runs.csv"), "--y", "score"]
    assert main(arguments) == 2
    assert "lower or higher is better" in capsys.readouterr().err
    assert main([*arguments, "--better", "lower", "--json"]) == 0
    captured = capsys.readouterr()
    tree = json.loads(captured.out)
    assert captured.err == "" and tree["schema"] == 1
    assert tree["excluded"] == [{"row": "row 1", "reason": "score is missing"}]
    assert tree["verdicts"][0] == tree["verdicts"][0] | {"claim": "b scales better than a", "verdict": "supported"}
    assert len(tree["verdicts"]) == 2, "each claim is made once"
    assert main([*arguments, "--better", "lower"]) == 0
    assert "SUPPORTED: b scales better than a" in capsys.readouterr().out


def test_its_example_runs() -> None:
    assert doctest.testmod(analysis.inference.designs).failed == 0


@pytest.mark.parametrize("rise", [0.1, 10.0])
@pytest.mark.parametrize("mode", ["pooled", "single", "paired", "separate"])
def test_runs_that_scatter_more_at_one_end_make_no_winner(mode: str, rise: float) -> None:
    """Two designs of one law, on any count: 0.06 and two standard errors of a share of 60."""
    assert false_winner(mode, rise, 60, 21).coverage <= 0.06 + 2 * (0.06 * 0.94 / 60) ** 0.5


def test_uneven_scatter_is_said() -> None:
    frame = runs({"a": -0.05, "b": -0.05}, sd=0.0, seeds=3)
    noise = np.random.default_rng(0).normal(0, 1, len(frame)) * 0.1 * frame["params"] / 1e7
    codes = [code for code, _ in compare_designs(frame.assign(rfid=frame["rfid"] + noise), "params", "rfid").cautions]
    assert "unequal-seed-variance" in codes
    single = frame.assign(rfid=frame["rfid"] + noise)[frame["seed"] == 0]
    assert "unequal-scatter" in [code for code, _ in compare_designs(single, "params", "rfid").cautions]

"""Whether fusion helps, by the gains that a table has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tables import trials

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.axes import analyse_axes
from analysis.inference.verdicts import Verdict
from analysis.report.outcome import report_analyses
from analysis.table.columns import arrange

SIZES = [1e5, 2e5, 4e5, 8e5, 16e5, 32e5]


def with_gains(gain: object = 1.0, error: object = 0.1, **columns: object) -> pd.DataFrame:
    columns |= {"gain_psnr": gain, "gain_psnr_se": error}
    return trials(**columns)


def helps(found: Analysis) -> Verdict:
    (verdict,) = [item for item in found.verdicts if item.claim.startswith("fusion helps")]
    return verdict


def judged(*given: object, **columns: object) -> Verdict:
    return helps(analyse(with_gains(*given, **columns), "params", "psnr"))


def test_runs_that_are_all_better_support_it() -> None:
    verdict = judged([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert (verdict.verdict, verdict.would_decide) == ("supported", "")
    assert verdict.claim == "fusion helps: 6 of 6 runs are better in psnr than no fusion"
    assert "+0.5 to +1" in verdict.reason and "Holm" in verdict.level


def test_one_run_that_is_worse_or_none_that_is_better_speaks_against_it() -> None:
    worse = judged([1.0] * 5 + [-1.0])
    assert worse.verdict == "not supported" and "1 significantly worse, at params = 3.2e+06" in worse.reason
    assert worse.claim.startswith("fusion helps: 5 of 6")
    none = judged([0.1] * 6)
    assert none.verdict == "not supported" and none.claim.startswith("fusion helps: 0 of 6")


def test_runs_that_are_not_told_from_none_leave_it_open_and_are_named() -> None:
    verdict = judged([1.0, 1.0, 0.15, 1.0, 1.0, 1.0])
    assert verdict.verdict == "undecided" and verdict.reason.endswith("not told from none at params = 4e+05")
    # As many images as bring 0.15 to Holm's limit for the least of six: 0.15 / error there.
    needed = (stats.t.isf(0.05 / 12, 1499) * 0.1 / 0.15) ** 2 * 1500
    assert f"about {math.ceil(needed):,} like these 1,500" in verdict.would_decide
    assert "about" not in judged([1.0, 1.0, -0.15, 1.0, 1.0, 1.0]).would_decide


def test_tests_of_many_runs_are_corrected_for_their_number() -> None:
    """Each of six gains of 2.2 standard errors alone is significant; together they are not."""
    assert 2 * stats.t.sf(2.2, 1499) < 0.05 < 6 * 2 * stats.t.sf(2.2, 1499)
    assert judged([0.22] * 6).verdict == "not supported"


def test_a_gain_known_exactly_needs_no_test() -> None:
    assert judged([1.0] * 6, [0.0] * 6).verdict == "supported"
    assert judged([0.0] * 6, [0.0] * 6).verdict == "not supported"


def test_without_gains_nothing_is_said() -> None:
    without = (trials(), trials(gain_psnr=1.0), with_gains(math.nan), trials(gain_ssim=1.0, gain_ssim_se=0.1))
    for frame in without:
        found = analyse(frame, "params", "psnr")
        assert found.gains is None and found.verdicts == found.law_verdicts


def test_runs_without_a_gain_are_counted() -> None:
    verdict = judged([1.0] * 5 + [math.nan])
    assert verdict.claim.startswith("fusion helps: 5 of 5") and "1 more runs have none" in verdict.reason


def test_a_tracker_s_prefix_does_not_hide_them() -> None:
    names = {name: f"metrics.{name}" for name in ("psnr", "gain_psnr", "gain_psnr_se")}
    assert helps(analyse(with_gains().rename(columns=names), "params", "psnr")).verdict == "supported"


def test_no_verdict_on_fusion_is_taken_for_one_on_the_law() -> None:
    """A size of 0 has no logarithm, and its law no verdict."""
    frame = with_gains(-1.0).assign(fusion_params=[0.0, 1, 2, 3, 4, 5])
    found = analyse(frame, "params", "psnr", "linear")
    assert found.law_verdicts == () and helps(found).verdict == "not supported"
    assert not found.rejected and not found.line_rejected


def test_seeds_of_a_configuration_are_averaged_and_gains_are_no_settings() -> None:
    frame = pd.concat([with_gains(np.linspace(0.5, 1, 6), 0.1), with_gains(np.linspace(0.7, 1.2, 6), 0.3)])
    frame = frame.assign(seed=[0] * 6 + [1] * 6, config_hash=[f"h{i}" for i in range(12)])
    found = analyse(frame.reset_index(drop=True), "params", "psnr")
    assert found.gains is not None
    first = found.gains.configurations[0]
    assert (first.x, first.runs, len(found.gains.configurations)) == (1e5, 2, 6)
    half = stats.t.ppf(0.975, 1499) * 0.2
    assert first.gain == pytest.approx(0.6) and tuple(first.ci95) == pytest.approx((0.6 - half, 0.6 + half))


def test_what_was_chosen_is_judged_less_what_choosing_adds() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (size, rate, 20 + np.log10(size) + rng.normal(0, 0.5), 0.2, 0.05)
        for size in SIZES for rate in (1e-3, 2e-3, 4e-3)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["params", "phase2.lr", "psnr", "gain_psnr", "gain_psnr_se"])
    found = analyse(arrange(frame, best_of=["phase2.lr"]), "params", "psnr")
    assert found.selection.best and np.abs(found.selection.flattery).max() > 0.1
    assert helps(found).verdict == "undecided" and "what choosing the best adds" in helps(found).reason


def test_a_law_of_two_axes_has_the_verdict_too() -> None:
    rows = [(h, n, h * n * 1e3, 20 + math.log10(h) + n / 10, 1.0, 0.1) for h in (8, 16, 32, 64) for n in (2, 4, 6)]
    names = ["expert_hidden_dim", "num_layers", "fusion_params", "psnr", "gain_psnr", "gain_psnr_se"]
    frame = pd.DataFrame(rows, columns=names)
    frame["psnr"] += np.random.default_rng(0).normal(0, 0.02, len(frame))
    assert analyse_axes(frame, "capacity", "layers", "psnr").verdicts[-1].claim.startswith("fusion helps: 12 of 12")


def test_the_verdict_and_a_table_stand_in_all_that_a_fit_writes(tmp_path: Path) -> None:
    frame = with_gains([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], gain_ssim=0.1)
    written = report_analyses([analyse(frame, "params", "psnr")], tmp_path, "mine")
    assert "SUPPORTED: fusion helps: 6 of 6 runs" in written.text
    assert written.trees[0]["verdicts"][-1]["claim"].startswith("fusion helps: 6 of 6")
    half = stats.t.ppf(0.975, 1499) * 0.1
    first = written.trees[0]["gains"][0]
    assert (first["x"], first["gain"], first["runs"]) == (1e5, 0.5, 1)
    assert first["ci95"] == pytest.approx([0.5 - half, 0.5 + half])
    page = (tmp_path / "report.md").read_text()
    assert "fusion helps: 6 of 6" in page and "Gain over no fusion" in page
    assert "| 100 K | 0.5000 | 0.3038 … 0.6962 | 1 |" in page
    assert "Gain over no fusion" in (tmp_path / "report.html").read_text()

"""Whether longer trials would move a law: what is paired, what is measured, what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference.analysis import analyse
from analysis.inference.convergence import ALLOWED, Convergence, converged, convergence, unmeasured
from analysis.inference.verdicts import Verdict
from analysis.laws.line import fit_line
from analysis.table.selection import select

WIDTHS = (1, 4, 16, 64, 256)


def table(shifts: tuple[float, ...], slope: float = 0.6, seed_sd: float = 0.02, seeds: int = 2) -> pd.DataFrame:
    """Five widths on a line, and checks of both ends (one shift: of the smallest) that are off by `shifts`.

    The seeds of a width lie symmetrically about the line.
    """
    rows = []
    for h in WIDTHS:
        for seed in range(seeds):
            off = seed_sd / math.sqrt(2) * (1 - 2 * seed) if seeds > 1 else 0.0
            rows.append((h, seed, 3, "", "finished", 20 + slope * math.log10(h) + off))
    for h, shift in zip((WIDTHS[0], WIDTHS[-1]), shifts, strict=False):
        own = next(row[-1] for row in rows if row[:2] == (h, 0))
        rows.append((h, 0, 6, "convergence", "finished", own + shift))
    names = ["expert_hidden_dim", "seed", "phase2.epochs", "role", "status", "psnr"]
    frame = pd.DataFrame(rows, columns=names).assign(params=lambda frame: 1e4 * frame["expert_hidden_dim"])
    return frame.assign(config_hash=[f"hash{i}" for i in range(len(frame))])


def judge(frame: pd.DataFrame, law: str = "log-linear", x: str = "params") -> tuple[Convergence, Verdict]:
    line = fit_line(select(frame, x, "psnr", log=law == "log-linear"), law)  # type: ignore[arg-type]
    found = convergence(line, line.curve)
    assert found is not None
    return found, converged(found, "psnr")


def test_known_shifts_are_measured_and_no_points_of_the_law() -> None:
    frame = table((0.26, 0.14))
    found, _ = judge(frame)
    decades = math.log10(256)
    assert [item.change for item in found.ends] == pytest.approx([0.26, 0.14])
    assert found.slopes == pytest.approx((0.6, 0.6 - 0.12 / decades)) and found.level == pytest.approx(0.2)
    assert found.span == pytest.approx(decades) and found.range == pytest.approx(0.6 * decades)
    sd, t = 0.02, stats.t.ppf(0.95, 5)
    low, high = found.ends[0].interval or (0, 0)
    assert (low, high) == pytest.approx((0.26 - t * math.sqrt(2) * sd, 0.26 + t * math.sqrt(2) * sd))
    assert found.slope is not None and found.slope.error == pytest.approx(2 * sd)
    line = fit_line(select(frame, "params", "psnr"))
    assert line.n == 10 and line.slope == pytest.approx(0.6)
    reasons = dict(line.selection.excluded)
    assert reasons["row 11 (hash10)"] == "checks convergence: repeats another trial with twice the epochs"


def test_the_text_says_the_numbers_plainly() -> None:
    found, verdict = judge(table((0.26, 0.14), seeds=1))
    said = "twice the steps: 20.00 -> 20.26 dB at h = 1, 21.44 -> 21.58 dB at h = 256; slope 0.600 -> 0.550 per decade"
    assert found.text == said
    assert verdict.reason.startswith(
        f"{said}; moved: h = 1 +0.26, h = 256 +0.14, slope over the law's 2.41 decades -0.12"
    )
    assert f"a quarter of the law's range of {found.range:.4g} is {found.limit:.3g}" in verdict.reason
    assert "moved (90% interval): h = 1 +0.26 (0.203 .. 0.317)" in judge(table((0.26, 0.14)))[1].reason
    distances = table((0.26, 0.14)).assign(psnr=lambda frame: 900 + frame["psnr"])
    assert judge(distances)[0].text.startswith("twice the steps: 920.01 -> 920.27 dB at h = 1")


@pytest.mark.parametrize(
    ("shifts", "seed_sd", "seeds", "word"),
    [
        ((0.05, 0.05), 0.02, 2, "supported"),
        # Beyond a quarter of 1.44 at one end.
        ((0.05, 0.60), 0.02, 2, "not supported"),
        ((-0.60, 0.0), 0.02, 2, "not supported"),
        # Each end within the quarter, and the slope not.
        ((0.30, -0.30), 0.02, 2, "not supported"),
        ((0.05, 0.05), 0.2, 2, "undecided"),
        ((0.34, 0.34), 0.02, 2, "undecided"),
        ((0.0, 0.0), 0.02, 1, "undecided"),
        ((0.05,), 0.02, 2, "undecided"),
        # Of one end alone it is known already that the law moves.
        ((0.60,), 0.02, 2, "not supported"),
    ],
)
def test_known_verdicts(shifts: tuple[float, ...], seed_sd: float, seeds: int, word: str) -> None:
    _, verdict = judge(table(shifts, seed_sd=seed_sd, seeds=seeds))
    assert verdict.verdict == word and verdict.level.startswith("5%")
    assert bool(verdict.would_decide) == (word == "undecided")
    assert verdict.claim.startswith("converged: twice the steps move the law by less than a quarter of its range")


def test_a_check_is_paired_with_the_trial_of_its_seed_decoder_and_settings() -> None:
    frame = table((0.1, 0.1)).assign(phase1_weights="abc", **{"phase2.lr": 1e-3})
    assert judge(frame)[0].unpaired == ()
    checks = frame["role"] == "convergence"
    for name, value in (("seed", 7), ("phase1_weights", "other"), ("phase2.lr", 1e-2)):
        found, verdict = judge(frame.assign(**{name: frame[name].mask(checks, value)}))
        assert found.ends == () and len(found.unpaired) == 2, name
        assert verdict.verdict == "undecided" and "the trials that they repeat" in verdict.would_decide


def test_several_checks_of_one_size_are_averaged() -> None:
    frame = table((0.1, 0.1))
    second = frame[(frame["seed"] == 1) & frame["expert_hidden_dim"].isin([1, 256])]
    more = second.assign(role="convergence", psnr=second["psnr"] + 0.3, config_hash=["more0", "more1"])
    found, _ = judge(pd.concat([frame, more], ignore_index=True))
    assert [item.pairs for item in found.ends] == [2, 2]
    assert [item.change for item in found.ends] == pytest.approx([0.2, 0.2])
    assert found.ends[0].error == pytest.approx(0.02), "of two differences of two runs"


def test_a_failed_check_is_no_measurement() -> None:
    frame = table((0.1, 0.1))
    frame.loc[len(frame) - 1, "status"] = "failed"
    found, verdict = judge(frame)
    assert len(found.ends) == 1 and verdict.verdict == "undecided" and "both ends" in verdict.reason
    assert "smallest and of the largest" in verdict.would_decide


def test_a_law_of_layers_moves_per_unit() -> None:
    rows = [(n, seed, "", 20 + 0.1 * n + 0.01 * seed) for n in (1, 3, 6, 9, 12) for seed in (0, 1)]
    rows += [(1, 0, "convergence", 20.15), (12, 0, "convergence", 21.2)]
    frame = pd.DataFrame(rows, columns=["num_layers", "seed", "role", "psnr"])
    found, _ = judge(frame, "linear", "num_layers")
    assert found.slopes == pytest.approx((0.1, 0.1 - 0.05 / 11)) and found.span == 11
    assert "at num_layers = 12" in found.text and "per unit" in found.text


def test_an_analysis_says_it_and_one_without_checks_that_it_does_not_know() -> None:
    found = analyse(table((0.05, 0.60)), "params", "psnr")
    assert found.verdicts[-1].verdict == "not supported" and found.verdicts[:-1] == found.law_verdicts
    assert not found.rejected and found.not_converged.startswith("not converged: twice the steps: ")
    assert unmeasured([found.selection]) == []
    calm = analyse(table((0.05, 0.05)), "params", "psnr")
    assert calm.verdicts[-1].verdict == "supported" and calm.not_converged == ""
    plain = analyse(table(()), "params", "psnr")
    assert plain.convergence is None and plain.verdicts == plain.law_verdicts and plain.not_converged == ""
    (caution,) = unmeasured([plain.selection, plain.selection])
    assert "was not measured: --check-convergence" in caution.message
    foreign = analyse(table(()).drop(columns="config_hash"), "params", "psnr")
    assert unmeasured([foreign.selection]) == [], "others' tables can have no such trials"


def test_a_law_that_moves_by_a_quarter_is_rarely_called_converged() -> None:
    rng, sd = np.random.default_rng(0), 0.05
    # The rows are selected once; what is drawn anew is their values.
    exact = select(table((0.0, 0.0), seed_sd=0.0), "params", "psnr")

    def word(shift: float) -> str:
        y, again = (values + rng.normal(0, sd, len(values)) for values in (exact.y, exact.check_y))
        line = fit_line(replace(exact, y=y, check_y=again + np.array([shift, 0.0])))
        found = convergence(line, line.curve)
        assert found is not None and len(found.ends) == 2
        return converged(found, "psnr").verdict

    moved = [word(ALLOWED * 0.6 * math.log10(256)) for _ in range(400)]
    # 5% and three standard errors of 400 draws.
    assert moved.count("supported") <= 33
    still = [word(0.0) for _ in range(200)]
    assert still.count("supported") > 100 and still.count("not supported") <= 20

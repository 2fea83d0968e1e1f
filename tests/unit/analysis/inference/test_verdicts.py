"""Verdicts: what the paper's points can carry, and what no points may be made to say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calibration.coverage import tool
from tables import saturating

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.evidence import compare_laws
from analysis.inference.predict import forecast
from analysis.inference.verdicts import no_saturation, printed_line, trend, value_at
from analysis.laws.intervals import points
from analysis.report.outcome import report_analyses
from drorae.errors import UserError


def test_the_papers_printed_line(paper: Analysis) -> None:
    line, intercept = printed_line(paper.comparison, slope=-0.058, intercept=0.97)
    assert (line.verdict, intercept.verdict) == ("not supported", "not supported")
    own = printed_line(paper.comparison, slope=-0.0564, intercept=0.92)
    assert [item.verdict for item in own] == ["supported", "supported"]


@pytest.mark.parametrize("n", [12, 30])
def test_a_law_that_saturates_is_never_said_not_to(n: int) -> None:
    laws = ("log-linear", "power", "power-offset", "log-quadratic")
    rows = {row.quantity: row.coverage for row in tool(n, 0.02, 60, seed=21, names=laws)}
    assert rows["'no saturation' supported"] == 0
    assert rows["'no saturation' undecided or denied or the envelope held"] >= 0.9
    assert rows["envelope of a new run at +0.3 decade"] >= 0.87
    comparison = saturating(n, 0.02, 3)
    limits = comparison.horizon
    verdict = trend(comparison)
    # Whatever is said of a log-linear trend is said of the sizes measured.
    assert "from 0.1 to 10" in verdict.claim
    with pytest.raises(UserError, match="beyond the data"):
        forecast(comparison, limits.high * 1.01)


def test_no_saturation_can_be_supported_by_points_that_show_it() -> None:
    x = np.geomspace(1, 1e4, 40)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(2).normal(0, 1e-4, 40)
    found = compare_laws(points(x, y))
    verdict = no_saturation(found)
    assert verdict.verdict == "supported"
    # Said of the sizes measured: never of sizes beyond.
    assert "from 1 to 1e+04" in verdict.claim and "if no break follows" in verdict.reason
    assert f"{found.horizon.high:.4g}" not in " ".join(verdict.lines())


@pytest.mark.parametrize(
    ("n", "said"), [(5, "5 configurations are too few to weigh that law"), (8, "AICc behind the best")]
)
def test_the_law_with_an_offset_is_weighed_where_there_are_points_enough(n: int, said: str) -> None:
    x = np.geomspace(1e5, 3e6, n)
    y = 900 + 6 * np.log10(x) + np.random.default_rng(3).normal(0, 3, n)
    verdict = no_saturation(compare_laws(points(x, y)))
    assert verdict.verdict == "undecided" and said in verdict.reason


@pytest.mark.parametrize("sign", [1, -1])
def test_an_asymptote_that_the_values_have_passed_is_not_called_ahead_of_them(sign: int) -> None:
    x = np.geomspace(1e5, 3e6, 6)
    near = no_saturation(compare_laws(points(x, sign * np.array([10.0, 14.0, 13.0, 15.5, 14.5, 16.0])))).reason
    assert "and have levelled off by the largest size" in near and "as near as" not in near
    noise = np.random.default_rng(1).normal(0, 2e-3, 12)
    far = no_saturation(
        compare_laws(points(np.geomspace(1e5, 3e6, 12), sign * (np.linspace(10, 16, 12) + noise)))
    ).reason
    assert "levelled off" not in far


def test_no_note_contradicts_a_verdict() -> None:
    x = np.geomspace(1e4, 1e8, 40)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(2).normal(0, 1e-4, 40)
    found = analyse(pd.DataFrame({"params": x, "rfid": y}), "params", "rfid")
    assert found.verdicts[1].verdict == "supported"
    assert not any("cannot" in item.message for item in found.cautions if item.code == "saturation")
    # Four points: neither note nor verdict speaks of a bend.
    four = analyse(pd.DataFrame({"params": [1e5, 1e6, 1e7, 1e8], "rfid": [1, 0.5, 0.25, 0.126]}), "params", "rfid")
    assert [item.code for item in four.cautions if item.code in ("curvature", "saturation")] == ["saturation"]
    assert "cannot show a bend" in four.verdicts[1].reason
    # One size alone sets the sign of a slope whose interval leaves out zero.
    lever = {"params": [1e5, 1.1e5, 1.2e5, 1.3e5, 1.4e5, 1e7], "rfid": [1.02, 1.01, 1.0, 1.0, 0.98, 1.6]}
    one = analyse(pd.DataFrame(lever), "params", "rfid", "linear")
    assert "sign-change" in [item.code for item in one.cautions] and one.line.slope_ci95.low > 0
    assert one.verdicts[0].verdict != "supported"
    # A line in x whose points bend.
    x = np.linspace(1e5, 1e8, 12)
    wave = 1e-3 * (-1) ** np.arange(12)
    bent = pd.DataFrame({"params": x, "rfid": 1 - 1e-9 * x + 1e-17 * x**2 + wave})
    crooked = analyse(bent, "params", "rfid", "linear")
    assert "curvature" in [item.code for item in crooked.cautions]
    assert crooked.verdicts[0].verdict == "not supported"


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 12])
@pytest.mark.parametrize("law", ["log-linear", "linear"])
def test_every_verdict_states_its_level_and_nothing_infinite_is_printed(n: int, law: str, tmp_path: Path) -> None:
    x = np.geomspace(1e5, 1e8, n)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(n).normal(0, 0.02, n)
    found = analyse(pd.DataFrame({"params": x, "rfid": y}), "params", "rfid", law)  # type: ignore[arg-type]
    outcome = report_analyses([found], tmp_path, "t")
    assert len(found.verdicts) >= 2
    assert all("%" in item.level and f"[level: {item.level}]" in outcome.text for item in found.verdicts)
    page = outcome.paths["markdown"].read_text()
    assert all(item.level in page for item in found.verdicts)
    assert not re.search(r"\b(inf|nan)\b", outcome.text + page)
    few = [item.message for item in found.cautions if item.code == "few-for-aicc"]
    # From five configurations on laws of three parameters are fitted; AICc can choose them from eight on.
    assert len(few) == (5 <= n <= 7)
    for fit in found.comparison.fits if few else ():
        assert f"{fit.name} {fit.loo_rmse:.3g}" in few[0]


def test_leave_one_out_errors_are_those_of_refits() -> None:
    x = np.geomspace(1e5, 1e8, 6)
    y = 0.3 + 20 * x**-0.4 + np.random.default_rng(0).normal(0, 1e-3, 6)
    found = compare_laws(points(x, y))
    quadratic = found.get("log-quadratic")
    off = []
    for k in range(6):
        rest = np.arange(6) != k
        off.append(y[k] - np.polyval(np.polyfit(np.log10(x[rest]), y[rest], 2), np.log10(x[k])))
    assert quadratic.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(off))), rel=1e-6)
    assert found.few and min(found.fits, key=lambda fit: fit.loo_rmse).name == "power-offset"


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_no_law_far_behind_is_said_to_fit_as_well(power: float) -> None:
    """Points that steepen: a law that levels off is far behind, and nothing says it does as well."""
    u = np.linspace(1, 4, 12)
    y = 1 - 0.05 * u**power + np.random.default_rng(0).normal(0, 1e-3, 12)
    found = compare_laws(points(10**u, y))
    assert found.delta(found.get("power-offset")) > 4
    verdict = no_saturation(found)
    assert verdict.verdict == "undecided" and "as well" not in verdict.reason
    assert "neither levelling off nor one rate" in verdict.reason


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("slope", [0.0, -0.005, -0.02, -0.1])
def test_what_would_decide_is_never_the_design_at_hand(seed: int, slope: float) -> None:
    x = np.geomspace(1e5, 1e8, 8)
    y = 1 + slope * np.log10(x) + np.random.default_rng(seed).normal(0, 0.02, 8)
    found = compare_laws(points(x, y), ("log-linear", "power", "power-offset"))
    for verdict in (trend(found), no_saturation(found)):
        for count in re.findall(r"about (\d+) ?\n?configurations", verdict.would_decide):
            assert int(count) > 8
        for decades in re.findall(r"over ([\d.]+) decades", verdict.would_decide):
            assert float(decades) > 3


def test_value_at_a_size(paper: Analysis) -> None:
    assert value_at(paper.comparison, 0.50, 2e8).verdict == "supported"
    assert value_at(paper.comparison, 0.40, 2e8).verdict == "not supported"
    assert value_at(paper.comparison, 0.45, 2e8).verdict == "undecided"
    far = value_at(paper.comparison, 0.50, 1e12)
    assert far.verdict == "undecided" and "beyond what is trusted" in far.reason

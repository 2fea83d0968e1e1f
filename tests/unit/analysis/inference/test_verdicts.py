"""Verdicts: what the paper's points can carry, and what no points may be made to say."""

from __future__ import annotations

import numpy as np
import pytest
from calibration.coverage import tool
from tables import saturating

from analysis.inference.analysis import Analysis
from analysis.inference.evidence import compare_laws
from analysis.inference.predict import forecast
from analysis.inference.verdicts import no_saturation, printed_line, trend, value_at
from analysis.laws.intervals import points
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
    assert no_saturation(found).verdict == "supported"


def test_value_at_a_size(paper: Analysis) -> None:
    assert value_at(paper.comparison, 0.50, 2e8).verdict == "supported"
    assert value_at(paper.comparison, 0.40, 2e8).verdict == "not supported"
    assert value_at(paper.comparison, 0.45, 2e8).verdict == "undecided"
    far = value_at(paper.comparison, 0.50, 1e12)
    assert far.verdict == "undecided" and "beyond what is trusted" in far.reason

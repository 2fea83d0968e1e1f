"""Laws that are asked for by name and method."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import TRUTHS, sizes

from analysis import Asking, Huber, analyse, fit_table
from analysis.inference.asked import Floor, ask_joint, ask_law, joint_lines
from analysis.inference.axes import analyse_axes
from analysis.laws.forms import FORMS
from analysis.laws.intervals import parameter_intervals, points
from analysis.report.figures import law_figure
from drorae.errors import UserError

ONE_AXIS = [name for name, form in FORMS.items() if form.axes == 1]
TWO_AXES = [name for name, form in FORMS.items() if form.axes == 2]


def table(law: str, sd: float = 0.003, seed: int = 0) -> pd.DataFrame:
    x = sizes(law)
    y = FORMS[law].value(x, TRUTHS[law])
    y = y + np.random.default_rng(seed).normal(0, sd * np.ptp(y), len(y))
    columns = np.reshape(x, (len(y), -1)).T
    return pd.DataFrame({**dict(zip(("params", "layers"), columns, strict=False)), "rfid": y})


@pytest.mark.parametrize("method", ["ls", "huber"])
@pytest.mark.parametrize("law", ONE_AXIS)
def test_the_law_asked_for_leads_with_its_parameters_and_intervals(law: str, method: str, tmp_path: Path) -> None:
    asking = Asking(law, method, Huber("plain"), resamples=200)  # type: ignore[arg-type]
    outcome = fit_table(table(law), "params", ["rfid"], asking, out=tmp_path)
    (found,), (tree,) = outcome.analyses, outcome.trees
    if law in ("log-linear", "linear") and method == "ls":
        assert found.asked is None and tree["asked"] is None
        return
    assert found.asked is not None and found.leading is found.asked.fit
    assert outcome.text.startswith(f"rfid: {law}, the law asked for")
    told = outcome.text.splitlines()[1]
    for item in tree["asked"]["parameters"]:
        assert f"{item['name']} = {item['value']:.5g} (" in told
        low, high = item["ci95"]
        assert (low is None or low <= item["value"]) and (high is None or item["value"] <= high)
    assert tree["leading"] == law == tree["asked"]["law"]
    thick = max(law_figure([found]).axes[0].get_lines(), key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(thick.get_ydata(), found.asked.fit.value(np.asarray(thick.get_xdata())))
    written = pd.read_csv(io.StringIO(outcome.paths["csv"].read_text()))
    np.testing.assert_allclose(written["fitted"], found.asked.fit.value(written["x"].to_numpy()), rtol=1e-8)
    assert law in outcome.paths["markdown"].read_text().split("## ")[0]


@pytest.mark.parametrize("method", ["ls", "huber"])
@pytest.mark.parametrize("law", TWO_AXES)
def test_a_law_of_two_axes_is_asked_for_too(law: str, method: str) -> None:
    found = analyse_axes(table(law), "params", "layers", "rfid")
    asking = Asking(law, method, resamples=200)  # type: ignore[arg-type]
    made = ask_joint(found, asking)
    assert made.verdict.verdict == "supported"
    for name, value in zip(FORMS[law].parameters, TRUTHS[law], strict=True):
        low, high = made.asked.intervals[name]
        assert low - 0.1 * abs(value) <= value <= high + 0.1 * abs(value)
    assert joint_lines(made)[0].startswith(f"rfid: {law}, the law asked for")
    assert joint_lines(None) == []


@pytest.mark.parametrize(
    ("truth", "asked", "word"),
    [("power-offset", "power-offset", "supported"), ("power-offset", "power", "not supported"),
     ("log-linear", "power-offset", "undecided"), ("broken-power", "power-offset", "not supported"),
     ("broken-power", "broken-power", "supported")],
)  # fmt: skip
def test_the_verdict_says_whether_the_data_reject_the_law(truth: str, asked: str, word: str) -> None:
    # A power law whose exponent is at its bound bends by 2% of the range: less than this scatter about a line.
    found = analyse(table(truth, 0.02 if truth == "log-linear" else 0.003), "params", "rfid", asked)
    first = found.verdicts[0]
    assert first.claim.startswith(f"{asked}: rfid follows y = ") and first.level
    assert first.verdict == word
    assert found.rejected == (first.verdict == "not supported")
    assert found.line_rejected == (truth != "log-linear")


def test_points_without_a_trend_support_no_law() -> None:
    flat = pd.DataFrame({"params": np.geomspace(1e5, 1e8, 12)})
    flat["rfid"] = 0.5 + np.random.default_rng(1).normal(0, 0.01, 12)
    verdict = analyse(flat, "params", "rfid", "power").verdicts[0]
    assert verdict.verdict == "undecided" and "no trend is resolved" in verdict.reason


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", ["ls", "huber"])
def test_the_bound_of_the_floor_covers_and_is_nearer_than_the_interval_s_end(sign: int, method: str) -> None:
    # A one-sided 95% bound fails one time in twenty, and then on its own side.
    x, rng, held, count = np.geomspace(0.1, 100, 14), np.random.default_rng(7), 0, 60
    truth = sign * (0.3 + 0.2 * x**-0.5)
    for _ in range(count):
        sample = points(x, truth + rng.normal(0, 0.01, len(x)))
        asked = ask_law(sample, Asking("power-offset", method, Huber("plain"), resamples=200))  # type: ignore[arg-type]
        floor = asked.floor
        assert floor is not None and floor.side == ("at least" if sign > 0 else "at most")
        low, high = asked.intervals["E"]
        assert low <= floor.bound <= high
        held += floor.bound <= 0.3 if sign > 0 else floor.bound >= -0.3
    assert held >= 0.86 * count


def test_the_floor_by_profile_likelihood_is_the_end_of_a_90_percent_interval() -> None:
    sample = points(np.geomspace(0.1, 100, 14), 0.3 + 0.2 * np.geomspace(0.1, 100, 14) ** -0.5
                    + np.random.default_rng(0).normal(0, 0.01, 14))  # fmt: skip
    asked = ask_law(sample, Asking("power-offset"))
    assert asked.floor is not None
    # Independent route: E is moved until its F ratio is the quantile of t at 5%, squared.
    from scipy import optimize, stats

    fit = asked.fit

    def excess(offset: float) -> float:
        def left(v: np.ndarray) -> np.ndarray:
            return np.asarray(sample.y - offset - v[0] * sample.x[:, 0] ** -v[1])

        best = optimize.least_squares(left, fit.parameters[1:])
        return float(2 * best.cost - fit.rss - stats.t.ppf(0.95, fit.dof) ** 2 * fit.rss / fit.dof)

    bound = optimize.brentq(excess, fit.parameters[0] - 0.3, fit.parameters[0])
    assert asked.floor.bound == pytest.approx(bound, abs=2e-3)
    assert asked.floor.bound > parameter_intervals(fit)["E"].low


def test_a_floor_that_data_do_not_bound_is_said_in_words() -> None:
    line = pd.DataFrame({"params": np.geomspace(1e5, 1e8, 12)})
    line["rfid"] = 1 - 0.05 * np.log10(line["params"]) + np.random.default_rng(1).normal(0, 0.005, 12)
    outcome = fit_table(line, "params", ["rfid"], "power-offset")
    assert "E: no lower bound, 95%, one-sided" in outcome.text
    assert outcome.trees[0]["asked"]["floor"]["bound"] is None
    assert Floor("at least", 0.25, 0.3).text == "E: at least 0.25, 95%, one-sided"


@pytest.mark.parametrize(
    ("asking", "named"),
    [(Asking("chinchilla"), "--and"), (Asking("powr"), "no such law"), (Asking("power", "lad"), "methods: ls, huber"),  # type: ignore[arg-type]
     (Asking("broken-power"), "want 6 configurations"), (Asking("power", "huber", Huber(delta=-1.0)), "above 0"),
     (Asking("power", "huber", resamples=3), "100 or more")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(asking: Asking, named: str) -> None:
    few = table("power").iloc[:5]
    with pytest.raises(UserError, match=named):
        analyse(few, "params", "rfid", asking)
    with pytest.raises(UserError, match="leave out --and"):
        Asking("power").check(2)

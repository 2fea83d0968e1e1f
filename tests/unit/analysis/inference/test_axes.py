"""Laws of two axes: against statsmodels, on the paper's pooled table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis.inference.axes import analyse_axes
from analysis.report.trees import joint_tree
from analysis.table.files import read_table
from drorae.commands.main import main
from drorae.errors import UserError

PAPER = Path(__file__).resolve().parents[4] / "results" / "paper"


def grid(noise: float = 0.01, crossing: float = 0.0, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for size in (1e5, 1e6, 1e7, 1e8):
        for layers in (1, 3, 6, 12):
            u = np.log10(size)
            for seed in range(seeds):
                value = 4 - 0.3 * u - 0.02 * layers + crossing * u * layers + rng.normal(0, noise)
                rows.append({"params": size, "num_layers": layers, "seed": seed, "rfid": value})
    return pd.DataFrame(rows)


def test_coefficients_intervals_and_tests_are_those_of_statsmodels() -> None:
    table = grid()
    found = analyse_axes(table, "params", "layers", "rfid")
    u, layers = np.log10(table["params"]), table["num_layers"].astype(float)
    design = np.column_stack([np.ones(len(u)), u, layers])
    plane = sm.OLS(table["rfid"], design).fit()
    law = joint_tree(found)["laws"][[item["name"] for item in joint_tree(found)["laws"]].index("plane")]
    assert [item["value"] for item in law["parameters"]] == pytest.approx(list(plane.params))
    assert [item["ci95"] for item in law["parameters"]] == pytest.approx(plane.conf_int().to_numpy(), rel=1e-6)
    assert law["r2"] == pytest.approx(plane.rsquared)
    both = sm.OLS(table["rfid"], np.column_stack([design, u * layers])).fit()
    f, p, _ = both.compare_f_test(plane)
    crossing = next(test for test in found.tests if test.what == "interaction")
    assert (crossing.f, crossing.p_value) == pytest.approx((f, p))
    f, p, _ = plane.compare_f_test(sm.OLS(table["rfid"], design[:, :2]).fit())
    assert (found.tests[0].f, found.tests[0].p_value) == pytest.approx((f, p))
    assert [item.verdict for item in found.verdicts[:3]] == ["supported", "supported", "undecided"]


def test_an_interaction_is_found_and_seeds_are_averaged() -> None:
    found = analyse_axes(grid(crossing=0.01, seeds=3), "params", "layers", "rfid")
    assert found.sample.n == 16 and len(found.selection.x) == 48 and found.sample.seed_dof == 32
    assert found.verdicts[2].verdict == "not supported" and found.fits[0].name == "interaction"


def test_the_papers_axes_were_varied_one_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(PAPER / "pooled_once.csv")
    arguments = ["fit", source, "--x", "capacity", "--and", "layers", "--y", "rfid"]
    assert main([*arguments, "--json", "--out", str(tmp_path / "out")]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["n"] == 19 and {item["name"]: item["reason"] for item in tree["laws_skipped"]}["interaction"]
    assert [item["verdict"] for item in tree["verdicts"][:3]] == ["supported", "supported", "undecided"]
    # Hand count: statsmodels on the nineteen rows.
    table = read_table(PAPER / "pooled_once.csv")
    design = sm.add_constant(np.column_stack([np.log10(table["expert_hidden_dim"]), table["num_layers"]]))
    plane = sm.OLS(table["rfid"], design).fit()
    values = next(item for item in tree["laws"] if item["name"] == "plane")["parameters"]
    assert [item["value"] for item in values] == pytest.approx(list(plane.params))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "one at a time" in page and "http" not in page.split("</style>")[1].split("<svg")[0]
    assert main(arguments) == 0
    assert "UNDECIDED: additive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(num_layers=np.log10(t["params"])), "collinear"),
        (lambda t: t[t["num_layers"].isin([1, 3])], "two values"),
        (lambda t: t.assign(num_layers="many"), "no cell"),
        (lambda t: t.assign(rfid=1.0), "same in every run"),
        (lambda t: t.iloc[[0, 5, 10, 3]], "configurations"),
    ],
)
def test_what_two_axes_cannot_carry(change: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyse_axes(change(grid()), "params", "layers", "rfid")  # type: ignore[operator]

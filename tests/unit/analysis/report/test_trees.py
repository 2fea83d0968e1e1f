"""Fits as plain values for JSON."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tables import uneven

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.axes import analyse_axes
from analysis.report.trees import fit_tree, joint_tree


def test_json_of_a_fit_says_all_of_it(paper: Analysis) -> None:
    tree = json.loads(json.dumps(fit_tree(paper), allow_nan=False))
    assert {"version", "laws", "predictions", "verdicts", "warnings", "excluded", "back_tests"} <= set(tree)
    laws = {law["name"]: law for law in tree["laws"]}
    assert laws["log-linear"]["delta_aicc"] == 0
    slope = laws["log-linear"]["parameters"][1]
    assert (slope["name"], slope["ci95"]) == ("slope", pytest.approx(list(paper.line.slope_ci95)))
    # E has no lower end: the data do not bend.
    assert laws["power-offset"]["parameters"][0]["ci95"][0] is None


def test_the_preferred_law_is_the_one_with_the_least_aicc() -> None:
    tree = fit_tree(analyse(uneven(), "params", "rfid"))
    assert next(law["delta_aicc"] for law in tree["laws"] if law["name"] == tree["preferred"]) == 0
    rng = np.random.default_rng(0)
    rows = [(p, n, 3 - 0.2 * np.log10(p) + rng.normal(0, 0.01)) for p in np.geomspace(1e5, 1e8, 4) for n in (1, 2, 4)]
    joint = joint_tree(
        analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    )
    laws = [*joint["laws"], *joint["laws_of_one_axis"]]
    assert joint["preferred"] == min(laws, key=lambda law: law["aicc"])["name"] == "log-linear"

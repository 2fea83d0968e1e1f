"""What compute buys stands in the report: on the page, in Markdown and in axes.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.inference.axes import analyse_axes
from analysis.inference.compute import Bought, buy
from analysis.report.compute import compute_blocks
from analysis.report.trees import joint_tree
from analysis.report.write import write_joint_report

BUDGETS = np.repeat(np.geomspace(1e19, 1e21, 4), 6)


def test_splits_and_optima_are_in_every_form_of_the_report(tmp_path: Path) -> None:
    n = (BUDGETS / 6) ** 0.5 * np.tile(np.geomspace(0.05, 1, 6), 4)
    d = BUDGETS / 6 / n
    # The largest level falls throughout, and so has no optimum.
    loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.36 + np.random.default_rng(0).normal(0, 0.002, len(n))
    loss[-6:] = 2 - 0.01 * np.arange(6.0) ** 1.1
    frame = pd.DataFrame({"params": n, "tokens": d, "loss": loss})
    found = analyse_axes(frame, "params", "tokens", "loss")
    bought = buy(found, [1e20, 1e22], column="pairs")
    paths = write_joint_report(found, tmp_path, "drorae fit", bought=bought)
    tree = json.loads(paths["json"].read_text())
    assert tree == json.loads(json.dumps(joint_tree(found, bought=bought)))
    assert [item["compute"] for item in tree["compute"]["optima"]] == [1e20, 1e22]
    assert [item["minimum"] is None for item in tree["isoflop"]["levels"]] == [False, False, False, True]
    page, markdown = paths["html"].read_text(), paths["markdown"].read_text()
    for text in ("Compute-optimal sizes", "IsoFLOP optima", "1e+22", "only its opposite"):
        assert text in page and text in markdown
    assert page.count("<img") == 2 and "(<surface.png>)" in markdown
    assert paths["surface_png"].stat().st_size > 20_000


def test_nothing_is_said_of_compute_that_was_not_asked_for(tmp_path: Path) -> None:
    rows = [(p, n, 3 - 0.2 * i - 0.05 * n + 0.001 * (-1) ** (i * n)) for i, p in enumerate([1e6, 1e7, 1e8])
            for n in (1, 2, 4, 8)]  # fmt: skip
    found = analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    paths = write_joint_report(found, tmp_path)
    assert "IsoFLOP" not in paths["html"].read_text() and compute_blocks(found, Bought()) == []
    assert not {"compute", "isoflop"} & set(json.loads(paths["json"].read_text()))

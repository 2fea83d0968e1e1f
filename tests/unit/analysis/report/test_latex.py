"""LaTeX tables: names of any kind are printed as they are, and the numbers are those of the fit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import replicated

from analysis.inference.analysis import analyse
from analysis.inference.axes import analyse_axes
from analysis.inference.designs import compare_designs
from analysis.report.comparison import write_comparison
from analysis.report.latex import escape, latex_table
from analysis.report.write import write_joint_report, write_report

NASTY = r'm_1 50% {a}$b$ #2 ~x^2 \foo & <c> [d]* "e"|'


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table, its head first; refuses what LaTeX would not take."""
    bare = re.sub(r"\\[{}$&%#_\\]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[#_~^\"|]", re.sub(r"\$[^$]*\$|^%.*$", "", bare, flags=re.MULTILINE))
    found = []
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{((?:[lr]|p\{[^}]*\})+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        lines = [line.strip() for line in body.strip().split("\n")]
        assert [lines[k] for k in (0, 2, -1)] == [r"\toprule", r"\midrule", r"\bottomrule"]
        rows = [lines[1], *lines[3:-1]]
        assert all(row.endswith(r" \\") for row in rows)
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)&", row.removesuffix(r"\\"))] for row in rows]
        # Behind the end of a row a bracket or a star would be its option.
        assert not any(row[0].startswith(("[", "*")) for row in cells)
        assert {len(row) for row in cells} == {len(re.sub(r"\{[^}]*\}", "", columns))}
        found.append(cells)
    assert len(found) == text.count(r"\begin{table}") > 0
    return found


@pytest.mark.parametrize("sign", list(r"\{}$&%#_^~<>|[]*"))
def test_every_special_sign_is_escaped(sign: str) -> None:
    shown = escape(f"a{sign}b")
    assert shown[0] == "a" and shown[-1] == "b" and shown != f"a{sign}b"
    tables(latex_table(f"a{sign}", [sign, "n"], [[f"{sign}{sign}", "1"]]))


def test_words_stay_and_numbers_get_their_powers() -> None:
    assert escape("\u5b57 caf\u00e9\n b") == "\u5b57 caf\u00e9 b"
    (table,) = tables(
        latex_table("t", ["name", "value"], [["1e-05", "1e\N{MINUS SIGN}05"], ["x", "2.5e+09"], ["y", "3"]])
    )
    assert table[1:] == [["1e-05", r"1$\times 10^{-5}$"], ["x", r"2.5$\times 10^{9}$"], ["y", "3"]]


def test_a_report_has_its_fits_as_tables(tmp_path: Path) -> None:
    frame = replicated(np.random.default_rng(0)).rename(columns={"psnr": NASTY})
    found = analyse(frame, "params", NASTY)
    paths = write_report([found], tmp_path, "t")
    assert paths["tex"] == tmp_path / "law.tex"
    fits, laws = tables(paths["tex"].read_text())
    line = found.line
    assert fits[1][0] == escape(NASTY) and fits[1][2] == f"{line.slope:.4f}" and fits[1][-2:] == ["5", "15"]
    assert fits[1][3] == rf"{line.slope_ci95[0]:.4f} \,\dots\, {line.slope_ci95[1]:.3f}"
    assert [row[1] for row in laws[1:]] == [fit.name for fit in found.comparison.fits]


def test_comparisons_and_laws_of_two_axes_have_theirs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (name, 10.0**k, layers, 2 - 0.1 * k - 0.01 * layers + rng.normal(0, 0.02))
        for name in (NASTY, "b")
        for k in range(5, 9)
        for layers in (1, 4, 12)
    ]
    frame = pd.DataFrame(rows, columns=["design", "params", "layers", "rfid"])
    found = compare_designs(frame[frame["layers"] == 4], "params", "rfid", "design")
    designs, differences = tables(write_comparison(found, tmp_path / "compare")["tex"].read_text())
    assert {row[0] for row in designs[1:]} == {escape(NASTY), "b"} and len(differences) == 1 + len(found.differences)
    joint = analyse_axes(frame[frame["design"] == "b"], "params", "layers", "rfid")
    (laws,) = tables(write_joint_report(joint, tmp_path / "axes")["tex"].read_text())
    assert [row[0] for row in laws[1:]] == [row[0] for row in joint.rows()]

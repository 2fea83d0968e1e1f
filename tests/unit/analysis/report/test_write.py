"""The report: numbers a program can read, and one page that stands alone."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tables import checked, sweep

from analysis.inference.analysis import Analysis, analyse
from analysis.report.figures import law_figure
from analysis.report.outcome import FitOutcome, fit_table, report_analyses
from analysis.report.trees import fit_tree
from analysis.report.write import checklist, headline, write_report
from analysis.table.columns import arrange


def test_json_is_the_fit(outcome: FitOutcome) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    tree = json.loads(outcome.paths["json"].read_text(), parse_constant=refuse)
    assert (tree["y"], tree["n"], tree["n_configurations"], tree["eval_images"]) == ("psnr", 9, 5, 1500)
    assert tree["slope"] == outcome.analyses[0].line.slope
    assert tree["slope_ci95"] == list(outcome.analyses[0].line.slope_ci95)
    assert tree["excluded"] == [{"row": "row 4 (11abcdef)", "reason": "status diverged: loss is NaN & <gone>"}]
    assert [item["y"] for item in tree["also"]] == ["rfd_dinov2"]
    assert {"code", "message"} == set(tree["warnings"][0])


def test_csv_holds_every_run(outcome: FitOutcome) -> None:
    table = pd.read_csv(outcome.paths["csv"])
    assert table.groupby("y")["used"].value_counts().to_dict() == {
        ("psnr", "yes"): 9, ("psnr", "no"): 1, ("rfd_dinov2", "yes"): 9, ("rfd_dinov2", "no"): 1,
    }  # fmt: skip
    used = table[table["used"] == "yes"]
    np.testing.assert_allclose(used["value"] - used["fitted"], used["residual"], atol=1e-6)
    assert (used["prediction95_low"] < used["ci95_low"]).all()


class Page(HTMLParser):
    """Collects tags with attributes, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_alone_and_escapes(outcome: FitOutcome) -> None:
    html = outcome.paths["html"].read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "iframe", "b", "gone"}
    sources = [attributes["src"] or "" for tag, attributes in page.seen if tag == "img"]
    assert len(sources) == 3
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?:|@import|url\(", html)
    drawing = base64.b64decode(sources[0].partition(",")[2]).decode()
    assert "<svg" in drawing and not re.search(r'(href|src)="(?!#)', drawing)
    assert "&lt;script&gt;" in html and "loss is NaN &amp; &lt;gone&gt;" in html and "&lt;b&gt;energy" in html


def test_findings_reach_page_and_markdown(tmp_path: Path) -> None:
    x = np.geomspace(1e5, 1e8, 12)
    wiggle = 0.01 * np.random.default_rng(0).normal(size=12)
    frame = pd.DataFrame({"params": x, "fid | <would>": 1 - 0.1 * np.log10(x) + wiggle})
    analysis = analyse(frame, "params", "fid | <would>")
    rivals = [law.name for law in analysis.comparison.plausible if law.name != "log-linear"]
    paths = write_report([analysis], tmp_path, "law")
    html, markdown = paths["html"].read_text(), paths["markdown"].read_text()
    for said in (
        "✓ supported",
        "? undecided",
        "E + A x^-b",
        "at its bound",
        f"{analysis.back_tests[0].hits} of 4 inside",
        "Predictions",
        f"within 4 AICc stand also {', '.join(rivals)}",
    ):
        assert said in html and said in markdown
    assert "fid \\| &lt;would> follows" in markdown and "fid | &lt;would&gt; follows" in html
    assert all(note.code in html and note.code in markdown for note in analysis.cautions)
    tree = json.loads(paths["json"].read_text())
    assert [item["message"] for item in tree["warnings"]] == [item.message for item in analysis.cautions]


def test_markdown_is_the_page_s_twin(outcome: FitOutcome) -> None:
    """The same headings, the same tables cell by cell, and pictures that lie where it says."""
    html, markdown = outcome.paths["html"].read_text(), outcome.paths["markdown"].read_text()
    assert re.findall(r"^## (.*)", markdown, re.M) == [unescape(item) for item in re.findall("<h2>(.*?)</h2>", html)]
    rows = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("| --")]
    assert len(rows) == html.count("<tr>")
    cells = {re.sub(r"\\(.)", r"\1", unescape(cell.strip())) for row in rows for cell in re.split(r"(?<!\\)\|", row)}
    assert {unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)} <= cells
    pictures = re.findall(r"!\[.*?\]\(<(.*?)>\)", markdown)
    assert len(pictures) == 3
    assert all((outcome.paths["markdown"].parent / picture).is_file() for picture in pictures)


def test_the_checklist_answers_a_reviewer(outcome: FitOutcome) -> None:
    frame = sweep()
    frame["phase2.lr"], frame["phase2.epochs"] = [1e-3] * 6 + [1e-4] * 4, 3
    frame = arrange(frame, ["eval_images=1500"])
    answers = dict(checklist(analyse(frame, "params", "psnr")))
    assert len(answers) == 9
    assert "9 runs, 5 fitted points; eval_images=1500 (10 of 10 rows)" in answers["Which points"]
    assert answers["What was left out"] == "1 rows: 1 status diverged"
    assert "5 over 2.41 decades: 72 K" in answers["Which sizes"] and "1 to 2 runs" in answers["How many seeds"]
    assert "1,500 evaluation images" in answers["Which metric, measured on what"]
    assert "phase2.lr varies (0.001, 0.0001)" in answers["Which hyper-parameters"]
    assert "phase2.epochs = 3" in answers["Which hyper-parameters"]


def test_runs_lead_to_mlflow_and_nowhere_worse(tmp_path: Path) -> None:
    frame = sweep().assign(run_url="http://127.0.0.1:5000/#/experiments/1/runs/ab")
    frame.loc[0, "run_url"] = "javascript:alert(1)"
    paths = fit_table(frame, "params", ["psnr"], out=tmp_path).paths
    html, markdown = paths["html"].read_text(), paths["markdown"].read_text()
    assert html.count('<a href="http://127.0.0.1:5000/#/experiments/1/runs/ab">run</a>') == 8
    assert markdown.count("[run](<http://127.0.0.1:5000/#/experiments/1/runs/ab>)") == 8
    assert "javascript" not in html + markdown


def test_figures_are_written_and_repeatable(outcome: FitOutcome, tmp_path: Path) -> None:
    for name in ("png", "residuals_png"):
        with Image.open(outcome.paths[name]) as image:
            assert min(image.size) > 300
    again = fit_table(sweep(), "params", ["psnr", "rfd_dinov2"], out=tmp_path)
    for name in ("json", "csv", "svg"):
        assert again.paths[name].read_bytes() == outcome.paths[name].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in again.paths.values()}


def test_headline_claims_no_trend_its_interval_does_not_show() -> None:
    frame = sweep().assign(psnr=[1.0, 1.1, -1, -1, 1, 1.2, -1, -1, 1, 1])
    flat = analyse(frame, "params", "psnr")
    assert "no trend is resolved" in headline(flat)
    assert headline(analyse(sweep(), "params", "psnr")).startswith("PSNR (dB) rises by")


def _levelling(n: int, law: str, sd: float = 1e-3) -> Analysis:
    """Points of a law that is no line, on which a line is rejected."""
    x = np.geomspace(1e4, 1e8, n)
    u = np.log10(x)
    y = {"offset": 0.3 + 20 * x**-0.4, "steepening": 1 - 0.01 * (u - 4) ** 2, "power": 30 * x**-0.3}[law]
    noise = np.random.default_rng(3).normal(0, sd, n)
    return analyse(pd.DataFrame({"params": x, "rfid": y + noise}), "params", "rfid")


@pytest.mark.parametrize("n", [6, 12, 24])
@pytest.mark.parametrize("law", ["offset", "steepening", "power"])
def test_headline_figure_and_terminal_lead_with_what_is_supported(n: int, law: str, tmp_path: Path) -> None:
    found = _levelling(n, law)
    assert found.rejected and found.leading.name != "log-linear"
    assert found.verdicts[0].verdict == "not supported"
    said = headline(found)
    assert "not supported" in said and f"{found.leading.name} leads" in said and "per tenfold" not in said
    text = report_analyses([found], None, "t").text
    assert text.startswith(f"rfid follows {found.leading.name}: ")
    assert "the line asked for, not supported: rfid = " in text
    thick = max(law_figure([found]).axes[0].get_lines(), key=lambda item: item.get_linewidth())
    x, y = np.asarray(thick.get_xdata(), float), np.asarray(thick.get_ydata(), float)
    np.testing.assert_allclose(y, found.leading.value(x))
    assert fit_tree(found)["leading"] == found.leading.name
    assert "no other law tried" not in dict(checklist(found))["Which form, and why"]


def test_where_the_line_stands_the_thick_curve_is_the_preferred_law() -> None:
    for seed in range(4):
        x = np.geomspace(1e4, 1e8, 10)
        y = 1 - 0.05 * np.log10(x) + np.random.default_rng(seed).normal(0, 5e-3, 10)
        found = analyse(pd.DataFrame({"params": x, "rfid": y}), "params", "rfid")
        thick = max(law_figure([found]).axes[0].get_lines(), key=lambda item: item.get_linewidth())
        x = np.asarray(thick.get_xdata(), float)
        law = found.leading if found.rejected else found.comparison.preferred
        np.testing.assert_allclose(np.asarray(thick.get_ydata(), float), law.value(x))


def test_a_law_that_longer_trials_move_says_so_first(tmp_path: Path) -> None:
    moved = fit_table(checked(0.2, 0.7), "params", ["psnr"], out=tmp_path / "moved")
    said = "psnr: not converged: twice the steps: 20.01 -> 20.21 dB at h = 1, 21.45 -> 22.15 dB at h = 256"
    assert moved.text.startswith(said)
    page = moved.paths["markdown"].read_text()
    assert said in page.partition("## ")[0] and "hollow diamonds" in page
    assert (
        "| converged: twice the steps move the law by less than a quarter of its range (psnr) | ✗ not supported" in page
    )
    assert "not converged" in unescape(moved.paths["html"].read_text())
    tree = json.loads(moved.paths["json"].read_text())
    assert tree["n"] == 10 and tree["verdicts"][-1]["verdict"] == "not supported"
    assert [end["change"] for end in tree["convergence"]["ends"]] == pytest.approx([0.2, 0.7])
    still = fit_table(checked(0.01, 0.01), "params", ["psnr"], out=tmp_path / "still")
    assert "not converged" not in still.text + still.paths["markdown"].read_text()
    assert "SUPPORTED: converged" in still.text and "convergence-unmeasured" not in still.text


def test_where_convergence_was_not_measured_one_note_says_so(outcome: FitOutcome) -> None:
    note = "whether the trials are trained to the end was not measured: --check-convergence"
    page = outcome.paths["markdown"].read_text()
    assert len(outcome.analyses) == 2 and outcome.text.count(note) == page.count(note) == 1
    trees = json.loads(outcome.paths["json"].read_text())
    warned = [[item["code"] for item in tree["warnings"]] for tree in (trees, *trees["also"])]
    assert ["convergence-unmeasured" in codes for codes in warned] == [True, False]
    assert trees["convergence"] is None and not any("converged" in item["claim"] for item in trees["verdicts"])

"""The report: numbers a program can read, and one page that stands alone."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.fit import FitOutcome, fit_table
from analysis.report import headline
from drorae.errors import UserError


def sweep() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "config_hash": f"{k}{seed}abcdef",
            "variant": "<b>energy</b>",
            "expert_hidden_dim": h,
            "seed": seed,
            "fusion_params": h * 9000,
            "psnr": 15 + np.log10(h) + rng.normal(0, 0.1),
            "rfd_dinov2": 300 - 20 * np.log10(h) + rng.normal(0, 3),
            "eval_images": 1500,
            "status": "finished",
            "reason": None,
        }
        for k, h in enumerate([8, 32, 128, 512, 2048])
        for seed in (0, 1)
    ]
    rows[3] |= {"status": "diverged", "reason": "loss is NaN & <gone>"}
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> FitOutcome:
    folder = tmp_path_factory.mktemp("report")
    Image.new("RGB", (4, 4), (200, 30, 30)).save(folder / "grid.png")
    return fit_table(
        sweep(), "params", ["psnr", "rfd_dinov2"], out=folder / "out", title="A <script>alert(1)</script> sweep",
        images={"original / phase 1 / fused": folder / "grid.png"}, command="drorae fit trials.csv --x params",
    )  # fmt: skip


def test_json_is_the_fit(outcome: FitOutcome) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    tree = json.loads(outcome.paths["json"].read_text(), parse_constant=refuse)
    assert (tree["y"], tree["n"], tree["n_configurations"], tree["eval_images"]) == ("psnr", 9, 5, 1500)
    assert tree["slope"] == outcome.fits[0].slope
    assert tree["slope_ci95"] == list(outcome.fits[0].slope_ci95)
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


def test_figures_are_written_and_repeatable(outcome: FitOutcome, tmp_path: Path) -> None:
    for name in ("png", "residuals_png"):
        with Image.open(outcome.paths[name]) as image:
            assert min(image.size) > 300
    again = fit_table(sweep(), "params", ["psnr", "rfd_dinov2"], out=tmp_path)
    for name in ("json", "csv", "svg"):
        assert again.paths[name].read_bytes() == outcome.paths[name].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in again.paths.values()}


def test_text_says_what_was_left_out(outcome: FitOutcome) -> None:
    assert "psnr = " in outcome.text and "95% CI" in outcome.text
    assert "5 configurations, 9 runs" in outcome.text
    assert "left out: row 4 (11abcdef): status diverged" in outcome.text
    assert all(line.isascii() for line in outcome.text.splitlines())


def test_headline_claims_no_trend_its_interval_does_not_show() -> None:
    frame = sweep().assign(psnr=[1.0, 1.1, -1, -1, 1, 1.2, -1, -1, 1, 1])
    flat = fit_table(frame, "params", ["psnr"]).fits[0]
    assert "no trend is resolved" in headline(flat)
    assert headline(fit_table(sweep(), "params", ["psnr"]).fits[0]).startswith("PSNR (dB) rises by")


def test_nothing_is_written_when_one_metric_cannot_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fit_table(sweep(), "params", ["psnr", "lpips"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder it can write to"):
        fit_table(sweep(), "params", ["psnr"], out=tmp_path / "file")

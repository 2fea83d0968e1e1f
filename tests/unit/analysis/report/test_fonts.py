"""Names in any script are drawn with an installed font that has them, and what none has is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from tables import sweep

from analysis.inference.analysis import analyse
from analysis.report import fonts
from analysis.report.figures import law_figure, panels, save
from analysis.report.write import write_report

SIGN = "\u5b57"
"""A Chinese sign, which the figures' own font has not."""
UNKNOWN = "\U000e1234"


def forget() -> None:
    fonts.families_for.cache_clear()
    fonts._signs.cache_clear()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[str]:
    """The name of a font of one sign, as if it were installed, and the only one that has it."""
    pen = TTGlyphPen(None)
    for point in ((100, 0), (100, 700), (800, 700)):
        (pen.lineTo if point != (100, 0) else pen.moveTo)(point)
    pen.closePath()
    drawn, empty = pen.glyph(), TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "sign"])
    builder.setupCharacterMap({ord(SIGN): "sign"})
    builder.setupGlyf({".notdef": empty, "sign": drawn})
    builder.setupHorizontalMetrics({".notdef": (900, 0), "sign": (900, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Sign Sans", "styleName": "Regular", "psName": "OneSignSans"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(tmp_path / "one.ttf")
    before = list(fontManager.ttflist)
    own = [item for item in before if item.name == fonts.OWN]
    fontManager.ttflist[:] = own
    fontManager.addfont(tmp_path / "one.ttf")
    forget()
    yield "One Sign Sans"
    fontManager.ttflist[:] = before

    forget()


def titled(title: str) -> Figure:
    figure, (axes,) = panels(1)
    axes.set_title(title)
    axes.plot([1, 2])
    return figure


@pytest.mark.filterwarnings("error")
def test_a_font_that_has_the_sign_is_chosen_and_used(installed: str, tmp_path: Path) -> None:
    figure = titled(f"size {SIGN}")
    assert fonts.boxes(figure) == ""
    assert figure.axes[0].title.get_fontfamily() == [fonts.OWN, installed]
    paths = save(figure, tmp_path, "a")

    assert b"OneSignSans" in paths["pdf"].read_bytes()
    assert fonts.families_for("size") == ((fonts.OWN,), "")


@pytest.mark.filterwarnings("error")
def test_signs_that_no_font_has_are_named_in_the_report(tmp_path: Path) -> None:
    metric = f"m{UNKNOWN}"
    figure = titled(metric)
    assert fonts.choose_fonts(figure) == fonts.choose_fonts(figure)
    frame = sweep().rename(columns={"psnr": metric})
    page = write_report([analyse(frame, "params", metric)], tmp_path, "t")["html"].read_text()
    assert f"No font of this machine has {UNKNOWN}: drawn as boxes." in page or not UNKNOWN.isprintable()
    plain = write_report([analyse(sweep(), "params", "psnr")], tmp_path, "t")["html"].read_text()
    assert "drawn as boxes" not in plain


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["a$b$", "$\\frac{$", "cost_$", "50% \\alpha $x^2$"])
def test_a_dollar_sign_in_a_name_is_one(tmp_path: Path, metric: str) -> None:
    frame = sweep().rename(columns={"psnr": metric})
    figure = law_figure([analyse(frame, "params", metric)])
    for style in ("screen", "paper"):
        save(figure, tmp_path, "law", style)  # type: ignore[arg-type]
    assert metric in figure.axes[0].get_ylabel() and not figure.axes[0].yaxis.label.get_parse_math()

"""A report's blocks in HTML and in Markdown: nothing in them is markup but what the page itself writes."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from analysis.report.blocks import (
    MANY_ROWS,
    MARKDOWN_ROWS,
    Heading,
    Link,
    Notes,
    Picture,
    Table,
    Text,
    html_page,
    markdown_page,
)

HOSTILE = "<b>x</b> & *y* `z` [w](http://evil)"


@pytest.mark.parametrize(
    "block",
    [
        Heading(HOSTILE),
        Text(HOSTILE),
        Text(HOSTILE, "lead"),
        Notes(((HOSTILE, "code"),)),
        Table((HOSTILE,), [[HOSTILE]]),
    ],
)
def test_words_stay_words(block: Heading | Text | Notes | Table, tmp_path: Path) -> None:
    html, markdown = html_page(HOSTILE, [block]), markdown_page(HOSTILE, [block], tmp_path)
    assert "<b>" not in html + markdown
    assert "&lt;b&gt;x&lt;/b&gt; &amp; *y*" in html
    assert "&lt;b>x&lt;/b> &amp; \\*y\\* \\`z\\` \\[w\\](http://evil)" in markdown


@pytest.mark.parametrize(
    ("url", "leads"), [("https://a/b", True), ("http://a/b", True), ("javascript:x()", False), ("", False)]
)
def test_only_addresses_of_the_web_become_links(url: str, leads: bool, tmp_path: Path) -> None:
    table = Table(("run",), [[Link("here", url)]])
    assert (f'<a href="{url}">here</a>' in html_page("t", [table])) == leads
    assert (f"[here](<{url}>)" in markdown_page("t", [table], tmp_path)) == leads
    assert "here" in html_page("t", [table])


def test_a_bar_in_a_cell_is_no_end_of_it(tmp_path: Path) -> None:
    lines = markdown_page("t", [Table(("a|b", "c"), [["d|e", "f"]], text=(1,))], tmp_path).splitlines()
    assert lines[2:] == ["| a\\|b | c |", "| --- | --- |", "| d\\|e | f |"]


def test_long_tables_scroll_on_the_page_and_are_cut_in_markdown(tmp_path: Path) -> None:
    rows = [[str(number)] for number in range(MARKDOWN_ROWS + 3)]
    assert 'class="scroll many"' in html_page("t", [Table(("n",), rows)])
    assert 'class="scroll many"' not in html_page("t", [Table(("n",), rows[:MANY_ROWS])])
    assert html_page("t", [Table(("n",), rows)]).count("<td") == len(rows)
    markdown = markdown_page("t", [Table(("n",), rows)], tmp_path)
    assert "3 more rows stand in law.csv." in markdown and f"| {MARKDOWN_ROWS} |" not in markdown


def test_a_picture_is_in_the_page_and_beside_the_markdown(tmp_path: Path) -> None:
    (tmp_path / "law.svg").write_bytes(b"<svg/>")
    picture = Picture(tmp_path / "law.svg", tmp_path / "figures" / "law 1.png", 'a "law"', "what it shows")
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', html_page("t", [picture]))
    assert found and base64.b64decode(found[1]) == b"<svg/>"
    assert '![a "law"](<figures/law 1.png>)' in markdown_page("t", [picture], tmp_path)

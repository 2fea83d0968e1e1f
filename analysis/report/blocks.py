"""A report's content as blocks, and the two ways to write it: one self-contained HTML page, and Markdown."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

MANY_ROWS = 40
"""Rows from which a table of the page scrolls in a box of its own."""
MARKDOWN_ROWS = 200
"""Rows of a table that Markdown shows; the rest is counted."""


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere. Only http and https addresses become links."""

    text: str
    url: str

    @property
    def leads(self) -> bool:
        """Whether the address becomes a link."""
        return self.url.startswith(("http://", "https://"))


Cell = str | Link


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["plain", "lead", "soft", "code"] = "plain"


@dataclass(frozen=True)
class Notes:
    """Sentences, each with a code for programs; None for none."""

    items: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Table:
    """A table; `text` numbers the columns that hold words and wrap."""

    head: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    text: tuple[int, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image: `page` is embedded in HTML, `file` is what Markdown shows."""

    page: Path
    file: Path
    alternative: str
    caption: str
    wide: bool = False
    """Of several panels: on a phone it scrolls rather than shrinks."""


Block = Heading | Text | Notes | Table | Picture

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6a6a70; --rule: #e2e2e6; --page: #ffffff; --note: #f6f4ee; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a0a0a8; --rule: #38383d; --page: #17171a; --note: #24221d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .75rem; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.5rem 0 .6rem; }
p { margin: .35rem 0; } .lead { font-size: 1.08rem; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
figure { margin: 1.5rem 0; } figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--rule);
  border-radius: 6px; display: block; } figcaption { margin-top: .4rem; }
.scroll { overflow: auto; } .many { max-height: 32rem; border: 1px solid var(--rule); border-radius: 6px; }
.many th { position: sticky; top: 0; background: var(--page); }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: .32rem .7rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { font-weight: 600; color: var(--soft); white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 8rem; } a { color: inherit; }
ul.notes { list-style: none; margin: 0; padding: .6rem 1rem; background: var(--note); border-radius: 6px; }
ul.notes li { margin: .3rem 0; } code { font: .86em ui-monospace, SFMono-Regular, Menlo, monospace; }
@media (max-width: 40rem) { body { padding: 1.25rem 1rem 3rem; } .wide img { width: 46rem; max-width: none; }
  th, td { padding: .32rem .45rem; } }
@media print { body { max-width: none; padding: 0; } .many { max-height: none; border: 0; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """One HTML page that loads nothing: style and pictures are in it."""
    body = "\n".join(_html(block) for block in blocks)
    return _PAGE.format(title=escape(title), style=_STYLE, body=body)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Text):
        if block.kind == "code":
            return f"<p><code>{escape(block.text)}</code></p>"
        return f"<p{'' if block.kind == 'plain' else f' class={block.kind}'}>{escape(block.text)}</p>"
    if isinstance(block, Notes):
        items = "".join(
            f"<li>{escape(text)}{f' <code>{escape(code)}</code>' if code else ''}</li>" for text, code in block.items
        )
        return f'<ul class="notes">{items}</ul>'
    if isinstance(block, Picture):
        kind = "image/svg+xml" if block.page.suffix == ".svg" else "image/png"
        data = base64.b64encode(block.page.read_bytes()).decode()
        return (
            f'<figure{" class=wide" if block.wide else ""}><div class="scroll">'
            f'<img alt="{escape(block.alternative)}" src="data:{kind};base64,{data}"></div>'
            f"<figcaption>{escape(block.caption)}</figcaption></figure>"
        )
    return _html_table(block)


def _html_table(table: Table) -> str:
    def cells(tag: str, values: Sequence[Cell]) -> str:
        return "".join(
            f"<{tag}{' class=text' if i in table.text else ''}>{_html_cell(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    # Reachable by keyboard, since it may have to be scrolled.
    box = f'<div class="scroll{" many" if len(table.rows) > MANY_ROWS else ""}" tabindex="0">'
    return f"{box}<table><thead><tr>{cells('th', table.head)}</tr></thead><tbody>{body}</tbody></table></div>"


def _html_cell(value: Cell) -> str:
    if isinstance(value, Link) and value.leads:
        return f'<a href="{escape(value.url)}">{escape(value.text)}</a>'
    return escape(value.text if isinstance(value, Link) else value)


def markdown_page(title: str, blocks: Sequence[Block], directory: Path) -> str:
    """The same blocks as Markdown for a file in `directory`; pictures are named by their path from there."""
    parts = [f"# {_plain(title)}", *(_markdown(block, directory) for block in blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, directory: Path) -> str:
    if isinstance(block, Heading):
        return f"## {_plain(block.text)}"
    if isinstance(block, Text):
        text = _plain(block.text)
        return {"plain": text, "soft": text, "lead": f"**{text}**", "code": f"    {block.text}"}[block.kind]
    if isinstance(block, Notes):
        return "\n".join(f"- {_plain(text)}" + (f" `{code}`" if code else "") for text, code in block.items)
    if isinstance(block, Picture):
        path = Path(os.path.relpath(block.file, directory)).as_posix()
        return f"![{_plain(block.alternative)}](<{path}>)\n\n{_plain(block.caption)}"
    rule = ["---" if i == 0 or i in block.text else "--:" for i in range(len(block.head))]
    rows = [[_markdown_cell(value) for value in row] for row in block.rows[:MARKDOWN_ROWS]]
    lines = [f"| {' | '.join(row)} |" for row in ([_markdown_cell(name) for name in block.head], rule, *rows)]
    if len(block.rows) > MARKDOWN_ROWS:
        lines += ["", f"{len(block.rows) - MARKDOWN_ROWS} more rows stand in law.csv."]
    return "\n".join(lines)


def _markdown_cell(value: Cell) -> str:
    text = _plain(value.text if isinstance(value, Link) else value).replace("|", "\\|")
    if isinstance(value, Link) and value.leads:
        return f"[{text}](<{value.url.replace('>', '%3E').replace('|', '%7C')}>)"
    return text


def _plain(text: str) -> str:
    """`text` as Markdown that shows just that text, on one line."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    # Inside a word an underscore is one; elsewhere it would be emphasis.
    return re.sub(r"([*`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)

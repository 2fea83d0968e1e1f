"""What README, docs/ and CONTRIBUTING.md name is there: commands and their options, files, pages."""

from __future__ import annotations

import csv
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from drorae.commands.main import COMMANDS, parse

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "docker/README.md",
        *(ROOT / "results").rglob("README.md"),
    ]
)
PAGES = [path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")]


def commands() -> list[str]:
    """Every line of a document that calls drorae, whatever calls it: `ray job submit -- drorae sweep ...`."""
    texts = [re.sub(r"\\\n\s+", "", path.read_text()) for path in DOCUMENTS]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("    ")]
    found = re.findall(r"(?:^ {4}|-- )(drorae [a-z].*)$", "\n".join(lines), re.MULTILINE)
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_documents_are_understood(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert parse(words[1:]) is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_in_the_documents_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []
    named = re.findall(r"`((?:drorae|sweeps|analysis|tests|docs|docker)/\w[\w./-]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    assert {str(path.relative_to(ROOT / "docs")) for path in PAGES} == set(leaves(navigation()))


def navigation() -> object:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def leaves(tree: object) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree
    return [leaf for child in children for leaf in leaves(child)]  # type: ignore[attr-defined]


def test_the_source_map_has_every_folder() -> None:
    page = (ROOT / "docs" / "project" / "layout.md").read_text()
    named = set(re.findall(r"`(\w+)/`(?=[^|]*\|)", page))
    folders = {path.parent.name for package in ("drorae", "sweeps") for path in (ROOT / package).glob("*/*.py")}
    assert folders - named == set()


def test_the_command_line_page_has_every_command() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert set(re.findall(r"^\| `drorae (\w+)` \|", page, re.MULTILINE)) == set(COMMANDS)


def test_versions_agree() -> None:
    import drorae

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert drorae.__version__ == version
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text()


def test_what_the_documents_say_of_decoders_is_what_was_measured() -> None:
    with (ROOT / "results/coverage/coverage.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["truth"].startswith("shared decoder")]
    new = [float(row["coverage"]) for row in rows if "new" in row["quantity"]]
    differ = [row for row in rows if not row["truth"].endswith("slopes sd 0")]
    here = [float(row["coverage"]) for row in differ if row["quantity"].endswith("for these decoders")]
    page = (ROOT / "docs/concepts/statistics.md").read_text()
    ends = [f"{value:.3f}".lstrip("0") for value in (min(new), max(new), min(here), max(here))]
    assert f"it covers {ends[0]} to {ends[1]}; the interval for these decoders covers {ends[2]} to {ends[3]}" in page

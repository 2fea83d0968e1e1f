"""One owner for each thing: names of files, statuses and metrics. No function or file longer than it may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from drorae.metrics.registry import METRICS
from drorae.trial.folder import FILES, TrialStatus

ROOT = Path(__file__).resolve().parents[2]
PATHS = [path for package in ("drorae", "sweeps", "analysis") for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in PATHS}
LONGEST_FUNCTION, LONGEST_FILE = 60, 350


def strings(tree: ast.AST) -> Iterator[str]:
    """Constants that are not docstrings, of fields either."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def owners(names: set[str]) -> dict[str, set[str]]:
    """The files that name each."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for path, tree in TREES.items():
        for text in set(strings(tree)) & names:
            found[text].add(path)
    return found


def test_a_trial_s_files_have_one_owner() -> None:
    names = {name for name in FILES if "*" not in name}
    for name, paths in owners(names).items():
        assert paths == {"drorae/trial/folder.py"}, name


@pytest.mark.parametrize("name", ["sweep.json", "trials.csv", "studies.db", "driver.log", "driver.lease"])
def test_a_sweep_s_files_have_one_owner(name: str) -> None:
    assert owners({name})[name] == {"sweeps/folder/sweep.py"}


def test_statuses_have_one_owner() -> None:
    # The doctor's findings, a table's header, and a flag of progress.json have words of the same spelling.
    others = {
        "missing": {"drorae/machine/doctor.py", "drorae/commands/doctor.py"},
        "running": {
            "sweeps/driver/console.py",
            "sweeps/driver/stalls.py",
            "sweeps/driver/status.py",
            "sweeps/worker/heartbeat.py",
        },
    }
    for name, paths in owners({str(status) for status in TrialStatus}).items():
        assert paths <= others.get(name, set()), name


def test_metrics_have_one_owner() -> None:
    for name, paths in owners({metric.name for metric in METRICS}).items():
        measured = {
            path for path in paths if path.startswith(("drorae/metrics/", "drorae/losses/", "drorae/diagnostics/"))
        }
        # lpips_vgg is a perceptual term of that name, too.
        training = {"drorae/config/schema.py", "drorae/config/presets.py", "drorae/machine/needs.py"}
        assert paths - measured <= (training | {"drorae/machine/downloads.py"} if name == "lpips_vgg" else set()), name


def test_no_message_or_page_advises_to_destroy_what_was_computed() -> None:
    """What stands in the way is renamed, or another folder or name is taken: nobody is told to lose a result."""
    advice = re.compile(
        r"\b(delete|erase|wipe|rm -\w*[rf]|(remove|discard|throw away) (it|them|this|that|the|old))\b", re.I
    )
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [(path, text) for path, tree in TREES.items() for text in strings(tree)]
    texts += [(path.relative_to(ROOT).as_posix(), line) for path in pages for line in path.read_text().splitlines()]
    assert [(path, text) for path, text in texts if advice.search(text)] == []
    assert advice.search("not readable; delete it") and advice.search("Remove the folder")


def test_functions_are_short() -> None:
    long = [
        f"{path}:{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_files_of_sweeps_are_short() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in TREES if path.startswith("sweeps/")}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_nothing_is_set_in_the_program_as_a_test_is_imported() -> None:
    """What a helper sets on a module as it is imported stays set for every test after it in the same process."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
    ]
    assert found == []

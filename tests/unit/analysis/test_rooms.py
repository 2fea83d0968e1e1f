"""The rooms of the analysis: who may import whom, what need not be installed, and one owner for each thing."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import analysis
from drorae.metrics.registry import METRICS
from drorae.trial.folder import TrialStatus

ROOT = Path(analysis.__file__).parent
ROOMS = ("table", "laws", "inference", "report")
MODULES = {
    ".".join(("analysis", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.stem != "__init__"
}


def imports(path: Path) -> set[str]:
    """Modules of the analysis that a file names anywhere, for type checkers and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found & set(MODULES)


def test_rooms_import_downwards_and_nothing_goes_round() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    for name, others in graph.items():
        rank = ROOMS.index(name.split(".")[1])
        assert not [other for other in others if ROOMS.index(other.split(".")[1]) > rank], name
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_needs_neither_torch_nor_mlflow() -> None:
    heavy = {"torch", "timm", "mlflow", "ray", "optuna", "tyro", "rich", "statsmodels"}
    code = "".join(f"import {name}\n" for name in MODULES) + f"import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr[-2000:]


def test_statuses_and_metrics_are_named_by_their_owners() -> None:
    owned = {*map(str, TrialStatus), *(metric.name for metric in METRICS)}
    for name, path in MODULES.items():
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not owned & strings, name

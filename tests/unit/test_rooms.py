"""The rooms of the packages: imports run downward, in the order given here, and never in a circle."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = {
    "drorae": (
        "commands", "export", "trial", "diagnostics", "machine", "generation", "metrics", "training", "losses", "data",
        "models", "storage", "config", "runtime", "errors", "redaction",
    ),
    "sweeps": (
        "driver", "worker", "tracking", "folder", "presets", "published", "parsing", "packs", "settings", "resources",
        "checks", "spec",
    ),
    "analysis": ("report", "inference", "laws", "table"),
}  # fmt: skip
"""From top to bottom. `__init__.py` and `__main__.py` are the door, and may open onto any room."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ORDER
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem not in ("__init__", "__main__")
}


def imports(path: Path) -> set[str]:
    """Modules of the packages that a file names anywhere, inside functions and for type checkers too."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return named & set(MODULES)


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", ORDER)
def test_every_room_has_its_place(package: str) -> None:
    assert {room(name) for name in MODULES if name.startswith(f"{package}.")} == set(ORDER[package])


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_downward(package: str) -> None:
    rank = {name: position for position, name in enumerate(ORDER[package])}
    climbing = [
        f"{name} -> {other}"
        for name, path in MODULES.items()
        for other in sorted(imports(path))
        if name.split(".")[0] == other.split(".")[0] == package and rank[room(other)] < rank[room(name)]
    ]
    assert climbing == []


def test_nothing_goes_round() -> None:
    graph = {name: imports(path) - {name} for name, path in MODULES.items()}
    # Raises CycleError, with the circle.
    tuple(graphlib.TopologicalSorter(graph).static_order())

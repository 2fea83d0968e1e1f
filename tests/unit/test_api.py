"""The public API: its names, what importing them costs, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("drorae", "sweeps", "analysis")
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        found = getattr(module, name)
        assert not isinstance(found, types.ModuleType), name
        assert isinstance(found, Mapping) or found.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_every_public_name(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text().splitlines()
    names = importlib.import_module(package).__all__
    shown = [line.removeprefix(f"::: {package}.") for line in page if line.startswith("::: ")]
    assert sorted(shown) == sorted(names)


def test_importing_the_packages_imports_nothing_else() -> None:
    code = "import sys; old = set(sys.modules); import drorae, sweeps, analysis; print(*set(sys.modules) - old)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"torch", "numpy", "pandas", "ray", "mlflow", "optuna", "matplotlib", "tyro", "rich"}, loaded


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["*"]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0

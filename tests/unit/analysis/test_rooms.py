"""The rooms of the analysis: who may import whom, what need not be installed, and one owner for each thing."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.inference.analysis import analyse
from analysis.inference.axes import analyse_axes
from analysis.inference.cautions import cautions
from analysis.inference.evidence import curvature, influence
from analysis.laws.line import fit_line
from analysis.report.trees import fit_tree, joint_tree
from analysis.table.selection import select
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


def uneven() -> pd.DataFrame:
    """Eight sizes with one to five seeds, so that their means weigh differently."""
    rng = np.random.default_rng(4)
    rows = [
        (10 ** (5 + k / 3), 2**k, seed, 1 - 0.1 * k + 0.01 * k**2 + rng.normal(0, 0.05))
        for k, seeds in enumerate((5, 4, 3, 3, 2, 2, 1, 1))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["params", "expert_hidden_dim", "seed", "rfid"])


def test_a_bend_and_a_leave_one_out_slope_are_those_of_the_weighted_laws() -> None:
    found = analyse(uneven(), "params", "rfid")
    sample = found.line.sample
    quadratic = next(law for law in fit_tree(found)["laws"] if law["name"] == "log-quadratic")
    bend = curvature(sample)
    assert np.ptp(sample.weights) > 0.5 and bend is not None
    assert [bend.low, bend.high] == pytest.approx(quadratic["parameters"][2]["ci95"], rel=1e-6)
    said = next(item.message for item in found.cautions if item.code in ("curvature", "saturation"))
    assert f"{bend.low:.3g}" in said and f"{bend.high:.3g}" in said
    rest = [i for i in range(8) if i != 7]
    u = np.log10(sample.x[:, 0])
    slopes = np.polyfit(u[rest], sample.y[rest], 1, w=np.sqrt(sample.weights[rest]))
    assert influence(found.line.curve)[7].without[1] == pytest.approx(slopes[0], rel=1e-6)


def test_a_line_in_large_sizes_can_show_a_bend() -> None:
    x = np.linspace(1e5, 1e8, 12)
    frame = pd.DataFrame({"params": x, "rfid": 1 - 1e-9 * x + 1e-17 * x**2})
    line = fit_line(select(frame, "params", "rfid", log=False), "linear")
    assert "curvature" in [item.code for item in cautions(line)]


def test_the_preferred_law_is_the_one_with_the_least_aicc() -> None:
    tree = fit_tree(analyse(uneven(), "params", "rfid"))
    assert next(law["delta_aicc"] for law in tree["laws"] if law["name"] == tree["preferred"]) == 0
    rng = np.random.default_rng(0)
    rows = [(p, n, 3 - 0.2 * np.log10(p) + rng.normal(0, 0.01)) for p in np.geomspace(1e5, 1e8, 4) for n in (1, 2, 4)]
    joint = joint_tree(
        analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    )
    laws = [*joint["laws"], *joint["laws_of_one_axis"]]
    assert joint["preferred"] == min(laws, key=lambda law: law["aicc"])["name"] == "log-linear"

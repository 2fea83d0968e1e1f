"""Where a result came from: code, libraries, machine, data and weights."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from drorae.runtime.commit import git_commit
from drorae.trial.shared import Workshop


def provenance(workshop: Workshop) -> dict[str, str]:
    """Where a result came from: code, libraries, machine, data and weights."""
    versions = {}
    for package in ("drorae", "torch", "torchvision", "timm", "numpy", "torchmetrics"):
        try:
            versions[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = workshop.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "device": f"{device.type} {name}",
        "threads": str(torch.get_num_threads()),
        **versions,
        **{f"fingerprint.{key}": value for key, value in workshop.fingerprints.items()},
        **{f"note.{key}": value for key, value in workshop.notes.items()},
    }

"""Where a result came from: code, libraries, machine, data and weights."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from drorae.trial.shared import Workshop


def git_commit() -> str:
    """Commit of the source tree drorae runs from, with `-dirty` where it was changed; `unknown` outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", Path(__file__).name):
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


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

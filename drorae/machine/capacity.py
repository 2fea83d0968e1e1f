"""Whether a machine, or what a trial gets of a cluster, can hold a config."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from drorae.config import Runtime, TrialConfig
from drorae.errors import UserError
from drorae.machine.needs import Needs, encoder_shape, rough_needs
from drorae.storage.patterns import is_there

SMALL_BYTES = 1e9
"""Any machine that runs torch has so much memory, on a GPU or beside it."""
CPU_STEP_FLOPS = 2e13
"""A training step above this takes minutes on a CPU, so that a trial would take weeks."""


def memory_bytes() -> float:
    """Returns the bytes of main memory of this machine, or of the container where that has less."""
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
        if wanted and not (path and is_there(path)):
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
    """Returns what the machine's devices lack of `needs`. Apart, because asking for GPUs means importing torch."""
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
    """Returns what a training step lacks.

    Args:
        flops: its floating-point operations.
        size: bytes that it needs.
        gpu: bytes of the GPU's memory; None: there is no GPU.
        memory: bytes of main memory.
    """
    lacking: list[str] = []
    have = memory if gpu is None else gpu
    too_slow = gpu is None and flops > CPU_STEP_FLOPS
    if too_slow:
        lacking.append(f"a CUDA GPU (a training step is about {flops / 1e12:.0f} TFLOP)")
    if size > have:
        kind = "memory" if gpu is None and not too_slow else "GPU memory"
        found = "" if too_slow else f", {have / 1e9:.0f} GB found"
        lacking.append(f"about {size / 1e9:.0f} GB of {kind}{found} (smaller phase batch_size or decoder)")
    return lacking

"""Whether a machine, or what a trial gets of a cluster, can hold a config."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from drorae.config import Runtime, TrialConfig
from drorae.errors import UserError
from drorae.machine.generator import rough_generator
from drorae.machine.needs import encoder_shape, rough_needs
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
    demands = _demands(config, runtime)
    if runtime.device.startswith("cuda") or any(demand.is_large for demand in demands):
        lacking += _lacking_devices(demands, runtime)
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
    shares = [
        demand._replace(flops=demand.flops / processes, size=demand.size / processes)
        for demand in _demands(config, runtime)
        if demand.is_large
    ]
    _refuse("this cluster", _lacking(shares, math.inf if gpus else None, memory))


class _Demand(NamedTuple):
    """What a training step needs."""

    whose: str
    """Empty: the phases'."""
    flops: float
    """Its floating-point operations."""
    size: float
    """Bytes."""
    remedy: str

    @property
    def is_large(self) -> bool:
        """Whether there are machines that cannot."""
        return self.flops > CPU_STEP_FLOPS or self.size > SMALL_BYTES


def _demands(config: TrialConfig, runtime: Runtime) -> list[_Demand]:
    """What a trial's phases need, and its generator, one after the other; nothing where the encoder is not known."""
    shape = encoder_shape(config.encoder.name)
    if shape is None:
        return []
    needs, generator = rough_needs(config, runtime, shape), rough_generator(config, runtime, shape)
    found = [_Demand("", needs.step_flops, needs.memory_bytes, "smaller phase batch_size or decoder")]
    if generator is not None:
        step = generator.train_flops / max(generator.steps, 1)
        smaller = "--micro-batch, or smaller generator.batch_size or generator.size"
        remedy = smaller if generator.precision == "bf16" else f"generator.precision=bf16, {smaller}"
        found.append(_Demand("the generator", step, generator.memory_bytes, remedy))
    return found


def _refuse(who: str, lacking: Sequence[str]) -> None:
    if lacking:
        raise UserError(
            f"{who} cannot run this config, which needs {'; '.join(lacking)}; "
            "--preset quickstart runs anywhere, --dry-run lists a sweep's trials"
        )


def _lacking_devices(demands: Sequence[_Demand], runtime: Runtime) -> list[str]:
    """Returns what the machine's devices lack. Apart, because asking for GPUs means importing torch."""
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
    return lacking + _lacking(demands, gpu, memory_bytes())


def _lacking(demands: Sequence[_Demand], gpu: float | None, memory: float) -> list[str]:
    """Returns what training steps lack.

    Args:
        demands: what they need.
        gpu: bytes of the GPU's memory; None: there is no GPU.
        memory: bytes of main memory.
    """
    lacking: list[str] = []
    have = memory if gpu is None else gpu
    for demand in demands:
        whose = f" for {demand.whose}" if demand.whose else ""
        too_slow = gpu is None and demand.flops > CPU_STEP_FLOPS
        if too_slow:
            lacking.append(f"a CUDA GPU{whose} (a training step is about {demand.flops / 1e12:.0f} TFLOP)")
        if demand.size > have:
            kind = "memory" if gpu is None and not too_slow else "GPU memory"
            found = "" if too_slow else f", {have / 1e9:.0f} GB found"
            lacking.append(f"about {demand.size / 1e9:.0f} GB of {kind}{whose}{found} ({demand.remedy})")
    return lacking

"""Several processes on one trial: who this one is, and what they agree on. One process needs none of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Processes at work on this trial; 1 where torch.distributed was not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that reports and writes files."""
    return rank() == 0


def barrier() -> None:
    """Waits until all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes; in one process the tensor itself."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def shared(module: nn.Module, device: torch.device) -> Any:
    """The module such that its gradients are the mean over the processes; in one process the module itself."""
    if world_size() == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def agreed(value: bool, device: torch.device) -> bool:
    """The main process's answer, in all processes."""
    if world_size() == 1:
        return value
    flag = torch.tensor([float(value)], device=device)
    dist.broadcast(flag, 0)
    return bool(flag.item())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file lock `path`, held by the main process on behalf of all of them."""
    if is_main():
        with FileLock(path):
            barrier()
            yield
            barrier()
    else:
        barrier()
        yield
        barrier()

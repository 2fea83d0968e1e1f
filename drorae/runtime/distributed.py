"""Several processes on one trial: which this one is, and what they agree on. One process needs none of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Returns the number of processes at work on this trial; 1 where torch.distributed was not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Says whether this is the process that reports and writes files."""
    return rank() == 0


def barrier() -> None:
    """Waits until all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """Returns the mean of a tensor over the processes; in one process the tensor itself."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def parallel(module: nn.Module, device: torch.device, partly: bool = False) -> Any:
    """Returns the module with gradients that are the mean over the processes; in one process the module itself.

    Args:
        module: what is trained.
        device: where it is.
        partly: whether some of its parameters may have no part in a forward pass.
    """
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=partly
    )


def from_main(value: bool, device: torch.device) -> bool:
    """Returns the main process's `value` in all processes; the flag travels through `device`."""
    flag = torch.tensor(float(value), device=device)
    if world_size() > 1:
        dist.broadcast(flag, 0)
    return bool(flag.item())


@contextlib.contextmanager
def main_lock(lock: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Holds a lock in the main process, on behalf of all of them."""
    with lock if is_main() else contextlib.nullcontext():
        barrier()
        yield
        barrier()

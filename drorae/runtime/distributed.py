"""Several processes on one trial: which this one is, and what they agree on. One process needs none of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: while the main one measures, no sign of life comes from it."""
BUCKET = 2**23
"""Elements of gradients that are exchanged at once: small ones together, and never all of them copied."""
_hosts: tuple[Any, Any] | None = None
"""The world, and its processes' connection beside the GPUs'."""


def world_size() -> int:
    """Returns the number of processes at work together; 1 where torch.distributed was not set up."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Says whether this is the process that reports and writes files."""
    return rank() == 0


def _host_group() -> Any:
    """The processes' connection through main memory: what goes over it waits for no GPU, and needs no room on one."""
    global _hosts
    world = dist.group.WORLD
    if _hosts is None or _hosts[0] is not world:
        _hosts = world, dist.new_group(backend="gloo", timeout=PATIENCE)
    return _hosts[1]


def barrier() -> None:
    """Waits until all processes have come here."""
    if world_size() > 1:
        dist.barrier(_host_group())


def mean(value: Tensor) -> Tensor:
    """Returns the mean of a tensor over the processes; in one process the tensor itself."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def mean_gradients(parameters: Iterable[Tensor]) -> None:
    """Puts the mean over the processes in the place of each parameter's gradient.

    Parameters without one are left out. They are the same in all processes, which go through the same networks.
    """
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for gradient in [parameter.grad for parameter in parameters if parameter.grad is not None]:
        if bucket and (sum(map(Tensor.numel, bucket)) >= BUCKET or bucket[0].dtype != gradient.dtype):
            _mean_in_place(bucket)
            bucket = []
        bucket.append(gradient)
    if bucket:
        _mean_in_place(bucket)


def _mean_in_place(tensors: list[Tensor]) -> None:
    flat = mean(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def any_of(flag: bool) -> bool:
    """Says, in all processes alike, whether one of them says so."""
    if world_size() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX, _host_group())
    return bool(found.item())


def from_main(value: T) -> T:
    """Returns the main process's `value` in all processes."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, 0, _host_group())
    return box[0]


def gathered(value: T) -> list[T]:
    """Returns the `value` of every process, in their order, in all of them."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, _host_group())
    return found


def my_part(count: int, size: int) -> range:
    """Returns which of `count` items, taken `size` at once, are this process's: a run of whole batches, or none.

    The batches of all processes in turn are those that one process takes.
    """
    batches = math.ceil(count / size)
    first, last = (batches * number // world_size() * size for number in (rank(), rank() + 1))
    return range(min(first, count), min(last, count))


def from_others(items: Iterable[T]) -> Iterator[T]:
    """Yields the other processes' items, in the order of the processes, in the main one; sends them in the others.

    All have to go through it to its end, where the others find nothing. Items are no None, and come one at a time.
    """
    if world_size() == 1:
        return
    group = _host_group()
    if not is_main():
        for item in items:
            dist.send_object_list([item], 0, group)
        dist.send_object_list([None], 0, group)
        return
    for sender in range(1, world_size()):
        box: list[T | None] = [None]
        dist.recv_object_list(box, sender, group)
        while box[0] is not None:
            yield box[0]
            dist.recv_object_list(box, sender, group)


@contextlib.contextmanager
def main_lock(lock: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Holds a lock in the main process, on behalf of all of them."""
    with lock if is_main() else contextlib.nullcontext():
        barrier()
        yield
        barrier()

"""Atomic checkpoints that resume exactly, and the weight average."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from drorae.errors import Notice
from drorae.storage.files import disk_is_full, naming_unreadable, replacing
from drorae.storage.sealed import move_aside

DIGEST = 32
"""Bytes of SHA-256, which end a checkpoint."""
CHECKPOINT_SHARE = 0.02
"""Of a run's time, the most that checkpoints hold it up: a kill is rare, and every minute pays for them."""


def seconds_between(least: float, held_up: float, share: float = 1.0) -> float:
    """Returns how long after a checkpoint the next is due, so that they cost `CHECKPOINT_SHARE` at most.

    Args:
        least: no sooner than so many seconds; 0: at once, whatever a checkpoint costs.
        held_up: seconds that checkpoints took of the training's and that are to be paid for; 0: there was none yet.
        share: of the time that passes, the part that is this trial's.
    """
    return max(least, held_up / (CHECKPOINT_SHARE * share)) if least else 0.0


class _Hashed:
    """A stream that is written from start to end, and the SHA-256 of what went through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        return self._stream.write(part)

    def flush(self) -> None:
        self._stream.flush()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that a kill leaves the old file or the new one, never half of one."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        # Given no `seek`, torch cannot go back to what has been hashed.
        hashed = _Hashed(stream)
        torch.save(state, cast("BinaryIO", hashed))
        stream.write(hashed.sha256.digest())
        stream.flush()
        os.fsync(stream.fileno())


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of tensors and plain values, in this machine's memory, which training does not change."""
    devices: set[torch.device] = set()

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_cuda:
                devices.add(value.device)
            copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            return copy.copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {name: copied(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copied(part) for part in value)
        return value

    copy: dict[str, Any] = copied(state)
    for device in devices:
        torch.cuda.synchronize(device)
    return copy


class CheckpointWriter:
    """Writes the checkpoints of a phase while its training goes on, one at a time.

    Args:
        path: the file, of which a kill leaves the one before or the one after.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cpu_seconds = 0.0
        """Of one core, which the last checkpoint took to be written."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Takes a copy of a state, to be written; waits for the one before.

        Raises:
            OSError, RuntimeError: what has kept the one before from being written.
        """
        self.finish()
        # No daemon: a process that ends by itself first writes what it has begun.
        self._thread = threading.Thread(target=self._write, args=(snapshot(state),), name=f"writes {self.path.name}")
        self._thread.start()

    def finish(self) -> None:
        """Waits until what was begun is written.

        Raises:
            OSError, RuntimeError: what has kept it from being written. A full disk is said in a `Notice` instead.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, failure, self._failure = None, self._failure, None
        if failure is None:
            return
        # torch's writer has a RuntimeError of its own for the bytes that no longer fit.
        if not isinstance(failure, OSError | RuntimeError) or not disk_is_full(failure):
            raise failure
        message = f"{self.path}: not written, the disk is full; training goes on without it"
        warnings.warn(message, Notice, stacklevel=3)

    def _write(self, state: dict[str, Any]) -> None:
        began = time.thread_time()
        try:
            save_checkpoint(self.path, state)
        except BaseException as failure:  # raised where it is waited for
            self._failure = failure
        self.cpu_seconds = time.thread_time() - began


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where there is none.

    A damaged one, told by its SHA-256 alone, is set aside as `<name>.damaged` with a `Notice`: None, too. Whatever
    keeps a sound one from being read, such as too little memory, is raised.

    Raises:
        UserError: the user may not read it, or has too many files open.
    """
    with naming_unreadable(path):
        try:
            whole = _whole(path)
        except FileNotFoundError:
            # Another process of this trial may have just set it aside.
            return None
        if whole:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    warnings.warn(f"{path}: damaged, set aside as {move_aside(path)}; the phase starts over", Notice, stacklevel=2)
    return None


def _whole(path: Path) -> bool:
    found, left = hashlib.sha256(), path.stat().st_size - DIGEST
    with path.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, 2**20))):
            found.update(part)
            left -= len(part)
        return stream.read() == found.digest()


class WeightAverage:
    """Exponential moving average of a module's parameters: a <- decay a + (1 - decay) w after every step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes one step's weights in."""
        for name, value in module.named_parameters():
            self.average[name].lerp_(value.detach(), 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrites the module's parameters with the average."""
        for name, value in module.named_parameters():
            value.copy_(self.average[name])

    @torch.no_grad()
    def exchange(self, module: nn.Module) -> None:
        """Puts the average where the module's parameters are, and these where it was; again: all is as before."""
        for name, value in module.named_parameters():
            kept = value.detach().clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)

    def load(self, average: dict[str, Tensor]) -> None:
        """Restores a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

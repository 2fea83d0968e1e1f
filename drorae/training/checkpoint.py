"""Atomic checkpoints that resume exactly, and the weight average."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drorae.errors import Notice
from drorae.storage.files import disk_is_full, file_sha256, naming_unreadable, replacing
from drorae.storage.sealed import move_aside

DIGEST = 32
"""Bytes of SHA-256, which end a checkpoint."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that a kill leaves the old file or the new one, never half of one.

    Where the disk is full the older checkpoint stays, and a `Notice` says so: training can go on.
    """
    try:
        with replacing(path) as temporary, temporary.open("w+b") as stream:
            torch.save(state, stream)
            stream.flush()
            digest = bytes.fromhex(file_sha256(temporary))
            stream.write(digest)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:
        # torch's writer has a RuntimeError of its own for the bytes that no longer fit.
        if not disk_is_full(error):
            raise
        warnings.warn(f"{path}: not written, the disk is full; training goes on without it", Notice, stacklevel=2)


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

    def load(self, average: dict[str, Tensor]) -> None:
        """Restores a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

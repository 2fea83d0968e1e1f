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
from drorae.storage.files import disk_is_full, naming_unreadable
from drorae.storage.sealed import move_aside

DIGEST = 32
"""Bytes of SHA-256, which end a checkpoint."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that a kill leaves the old file or the new one, never half of one.

    Where the disk is full the older checkpoint stays, and a `Notice` says so: training can go on.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w+b") as stream:
            torch.save(state, stream)
            stream.flush()
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").digest()
            stream.seek(0, os.SEEK_END)
            stream.write(digest)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
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
            return torch.load(path, map_location="cpu", weights_only=True)
    warnings.warn(f"{path}: damaged, set aside as {move_aside(path)}; the phase starts over", Notice, stacklevel=2)
    return None


def _whole(path: Path) -> bool:
    size = path.stat().st_size - DIGEST
    if size <= 0:
        return False
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while size > 0:
            part = stream.read(min(size, 2**20))
            if not part:
                return False
            found.update(part)
            size -= len(part)
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

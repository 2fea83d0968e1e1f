"""What a trial will take, before it is started: parameters, arithmetic, memory and GPU hours.

The arithmetic is counted by torch on networks without storage (the meta device), so that the paper's setting can be
counted on any machine in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import timm
import torch
import torchvision
from huggingface_hub import try_to_load_from_cache
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from drorae.config import DiscriminatorConfig, ObjectiveConfig, Runtime, TrialConfig
from drorae.data.images import load_images
from drorae.losses.discriminator import DinoDiscriminator
from drorae.losses.lpips import STAGES as LPIPS_STAGES
from drorae.losses.perceptual import STAGES as EFFNET_STAGES
from drorae.machine.doctor import ACTIVATION_BYTES, INCEPTION_FILE, LPIPS_FILE, downloaded
from drorae.models.decoder import Decoder
from drorae.models.effnet import NAME as EFFNET
from drorae.models.encoder import build_vit
from drorae.models.fusion.registry import LayerFusion
from drorae.models.fusion.size import exact_params
from drorae.training.phases import PHASE1, PHASE2, PHASE3, Phase

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class PhaseBudget:
    """One phase."""

    name: str
    steps: int
    images: int
    """Images gone through in all epochs."""
    flops_per_image: dict[str, float]
    """By part: encoder, fusion, decoder, perceptual, gan. A multiplication with its addition counts as 2."""
    weight_bytes: float
    """fp32 weights of every network in memory."""
    optimiser_bytes: float
    """Gradients, AdamW's two moments and the weight average of what is trained, fp32."""
    activation_bytes: float
    """Kept for the backward pass by fusion and decoder."""

    @property
    def flops(self) -> float:
        """Of the whole phase."""
        return self.images * sum(self.flops_per_image.values())


@dataclass(frozen=True)
class Budget:
    """A whole trial, evaluation left out."""

    params: dict[str, int]
    """By network. All but fusion, decoder and discriminator heads are frozen in every phase."""
    phases: list[PhaseBudget]

    def hours(self, flops_per_second: float) -> float:
        """Hours on one device that sustains so many floating-point operations per second."""
        return sum(phase.flops for phase in self.phases) / flops_per_second / 3600

    @property
    def memory_bytes(self) -> float:
        """Of the phase that needs most."""
        return max(phase.weight_bytes + phase.optimiser_bytes + phase.activation_bytes for phase in self.phases)


def _count(work: Callable[[], object]) -> float:
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return float(counter.get_total_flops())


def _pixels(size: int, gradient: bool = False) -> Tensor:
    return torch.zeros(1, 3, size, size, device="meta", requires_grad=gradient)


def _perceptual(config: ObjectiveConfig) -> nn.Module | None:
    """The network of the perceptual term as far as it is run."""
    if config.perceptual == "none":
        return None
    with torch.device("meta"):
        if config.perceptual == "lpips_vgg":
            network: nn.Module = torchvision.models.vgg16().features[: LPIPS_STAGES["vgg"][-1]]
        else:
            effnet = cast(EfficientNet, timm.create_model(EFFNET))
            blocks = list(effnet.blocks)[: EFFNET_STAGES[-1] + 1]
            network = nn.Sequential(cast(nn.Module, effnet.conv_stem), cast(nn.Module, effnet.bn1), *blocks)
    return network.eval().requires_grad_(False)


def _discriminator(config: DiscriminatorConfig) -> DinoDiscriminator:
    with torch.device("meta"):
        vit = build_vit(config.name, img_size=config.input_size).eval().requires_grad_(False)
        # Evaluation mode: the power iterations of the spectral norms are no arithmetic to speak of.
        return DinoDiscriminator(vit, config.input_size).eval()


IMAGENET_IMAGES = 1_281_167
"""Of ImageNet-1K's training set."""


def train_images(config: TrialConfig) -> tuple[int, bool]:
    """Training crops of an epoch, and whether they were counted; of images that are not there, ImageNet's number.

    Raises:
        UserError: the images are there and cannot be used.
    """
    source = config.images
    if source.source != "photos" and not Path(source.path).expanduser().exists():
        return min(source.train_images or IMAGENET_IMAGES, IMAGENET_IMAGES), False
    return len(load_images(source).train) * max(source.views, 1), True


@dataclass(frozen=True)
class NeededWeights:
    """A file of pretrained weights that a trial reads."""

    what: str
    where: str
    here: bool
    """On this machine already."""


def needed_weights(config: TrialConfig) -> list[NeededWeights]:
    """The weights a trial reads that come with no package: files it names, and downloads."""
    found = []
    for what, part in (("encoder", config.encoder), ("discriminator", config.discriminator)):
        if what == "discriminator" and config.objective.gan_weight == 0:
            continue
        if part.weights == "file":
            found.append(_file(what, part.path))
        elif part.weights == "hub":
            settings = timm.get_pretrained_cfg(part.name)
            repository = settings.hf_hub_id if settings else None
            here = bool(repository) and any(
                isinstance(try_to_load_from_cache(f"{repository}", name), str)
                for name in ("model.safetensors", "pytorch_model.bin")
            )
            found.append(NeededWeights(what, f"hub {repository or part.name}", here))
    if config.objective.perceptual == "lpips_vgg":
        found.append(_file("LPIPS", config.objective.lpips_path or str(downloaded(LPIPS_FILE))))
    if "inception" in config.evaluation.extractors:
        found.append(_file("Inception", config.evaluation.inception_path or str(downloaded(INCEPTION_FILE))))
    if config.decoder.weights:
        found.append(_file("decoder", config.decoder.weights))
    return found


def _file(what: str, path: str) -> NeededWeights:
    return NeededWeights(what, path, Path(path).expanduser().exists())


def budget(config: TrialConfig, runtime: Runtime, images: int) -> Budget:
    """What a trial takes with `images` training crops an epoch.

    Raises:
        UserError: sizes that do not fit, or networks timm does not know.
    """
    with torch.device("meta"):
        vit = build_vit(config.encoder.name, img_size=config.encoder.input_size).requires_grad_(False)
        grid = vit.patch_embed.grid_size[0]
        fusion = LayerFusion(config.fusion, len(vit.blocks), nn.LayerNorm(vit.embed_dim, elementwise_affine=False))
        decoder = Decoder(config.decoder, vit.embed_dim, grid, config.images.size)
    perceptual = _perceptual(config.objective)
    gan = config.objective.gan_weight > 0
    discriminator = _discriminator(config.discriminator) if gan else None
    params = {
        "encoder": exact_params(vit),
        "fusion": exact_params(fusion),
        "decoder": exact_params(decoder),
        "perceptual": exact_params(perceptual) if perceptual is not None else 0,
        "discriminator heads": exact_params(discriminator) if discriminator is not None else 0,
        "discriminator transformer": exact_params(discriminator.vit) if discriminator is not None else 0,
    }
    parts = _Parts(config, runtime, vit, fusion, decoder, perceptual, discriminator)
    phases = [
        _phase(config, runtime, parts, params, phase, images)
        for phase in (PHASE1, PHASE2, PHASE3)
        if phase.settings(config).epochs and not (phase is PHASE1 and config.decoder.weights)
    ]
    return Budget(params, phases)


class _Parts:
    """Arithmetic of one image through each network."""

    def __init__(
        self,
        config: TrialConfig,
        runtime: Runtime,
        vit: VisionTransformer,
        fusion: LayerFusion,
        decoder: Decoder,
        perceptual: nn.Module | None,
        discriminator: DinoDiscriminator | None,
    ) -> None:
        depth, tokens, width = len(vit.blocks), decoder.grid**2, vit.embed_dim
        self.tokens, self.width, self.layers = tokens, width, fusion.num_layers
        self.encoder = 0.0
        online = runtime.features == "online" or config.images.views == 0
        if online:
            with torch.no_grad():
                self.encoder = _count(lambda: vit.forward_features(_pixels(config.encoder.input_size)))
        layers = torch.zeros(1, depth, tokens, width, device="meta")
        with torch.no_grad():
            self.fusion_forward = _count(lambda: fusion(layers))
        self.fusion = (
            _count(lambda: fusion(layers).latent.sum().backward()) if exact_params(fusion) else self.fusion_forward
        )
        frozen = torch.zeros(1, tokens, width, device="meta")
        latent = frozen.clone().requires_grad_()
        with torch.no_grad():
            forward = _count(lambda: decoder(frozen))
        again = forward if runtime.activation_checkpointing else 0.0
        self.decoder_weights = _count(lambda: decoder(frozen).sum().backward()) + again
        decoder.requires_grad_(False)
        self.decoder_latent = _count(lambda: decoder(latent).sum().backward()) + again
        head = 2.0 * tokens * decoder.head.in_features * decoder.head.out_features
        self.perceptual = 0.0
        back = 0.0
        if perceptual is not None:
            network = perceptual
            lpips = config.objective.perceptual == "lpips_vgg"
            size = config.images.size if lpips else config.objective.perceptual_size
            with torch.no_grad():
                once = _count(lambda: network(_pixels(size)))
            image = _pixels(size, True)
            both = _count(lambda: network(image).sum().backward())
            back = both - once
            # The original's features as well, unless they are cached.
            self.perceptual = both + (once if lpips or online else 0.0)
        self.gan = 0.0
        if discriminator is not None:
            critic = discriminator
            image = _pixels(config.discriminator.input_size, True)
            plain = _pixels(config.discriminator.input_size)
            learns = _count(lambda: critic(plain).sum().backward())
            critic.requires_grad_(False)
            with torch.no_grad():
                once = _count(lambda: critic(plain))
            both = _count(lambda: critic(image).sum().backward())
            # The tokenizer's term; for the adaptive weight once more back through critic and perceptual network to
            # the decoder's last weight; and the heads' step on a reconstruction and an original.
            self.gan = both + (both - once) + back + 2 * head + 2 * learns


def _phase(
    config: TrialConfig, runtime: Runtime, parts: _Parts, params: dict[str, int], phase: Phase, images: int
) -> PhaseBudget:
    settings = phase.settings(config)
    fusing = phase.trains == "fusion"
    batch = min(settings.batch_size, images)
    steps = settings.epochs * (images // batch)
    fusion = parts.fusion if fusing else parts.fusion_forward
    flops = {
        "encoder": parts.encoder,
        "fusion": fusion if phase.latent == "fused" else 0.0,
        "decoder": parts.decoder_latent if fusing else parts.decoder_weights,
        "perceptual": parts.perceptual,
        "gan": parts.gan * max(steps - settings.gan_start_steps, 0) / max(steps, 1),
    }
    trained = params[phase.trains]
    at_once = min(runtime.micro_batch or batch, batch)
    decoder = config.decoder
    rows = at_once * (parts.tokens + 1)
    # ACTIVATION_BYTES are of an MLP four times as wide, whose share of the 34 is 16 (GELU's input and the second
    # product's).
    wide = ACTIVATION_BYTES[settings.precision] * (18 + 4 * decoder.mlp_dim / decoder.width) / 34
    block = rows * decoder.width * wide
    kept = decoder.depth * block
    if runtime.activation_checkpointing:
        kept = decoder.depth * rows * decoder.width * ELEMENT_BYTES[settings.precision] + block
    if fusing:
        # Per layer and token: normalised input, hidden before and after its norm, output before and after its own.
        numbers = 3 * parts.width + 2 * config.fusion.expert_hidden_dim
        kept += at_once * parts.tokens * parts.layers * numbers * ELEMENT_BYTES[settings.precision]
    return PhaseBudget(
        phase.name,
        steps,
        steps * batch,
        flops,
        weight_bytes=4.0 * sum(params.values()),
        optimiser_bytes=trained * (12.0 + (4.0 if settings.ema_decay else 0.0)) + 12.0 * params["discriminator heads"],
        activation_bytes=kept,
    )

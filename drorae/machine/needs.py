"""What a trial takes: arithmetic, parameters, memory and GPU hours. The one estimator, in closed form.

A multiplication with its addition counts as 2 floating-point operations. A product of matrices takes as many backward
for its input, and again for its weights where they are trained. Importing this module loads neither torch nor timm: a
driver asks every second.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from drorae.config import WITHOUT_WEIGHTS, Phase, Runtime, TrialConfig, patch_size
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.storage.patterns import is_there

if TYPE_CHECKING:
    from drorae.models.backbones import Backbone

ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ACTIVATION_BYTES = {"bf16": 34, "fp32": 68}
"""Bytes kept for the backward pass per token, layer and unit of width of a transformer whose attention is fused
(Korthikanti et al., arXiv 2205.05198, Eq. 2 without the attention scores); twice as much in fp32."""
PERCEPTUAL_FLOPS = {"none": 0.0, "effnet": 9696.625, "lpips_vgg": 611_712.0}
"""Per pixel, forward: the convolutions of EfficientNet-Lite0's stages and of VGG16."""
PERCEPTUAL_PARAMS = {"none": 0, "effnet": 700_768, "lpips_vgg": 14_714_688}
"""Of the same."""
PERCEPTUAL_NUMBERS = {"none": 0.0, "effnet": 232.5, "lpips_vgg": 486.3}
"""Per pixel: float32 numbers that the same keep for the backward pass, counted with autograd's hooks."""
FUSION_NUMBERS = {"energy": (3.0, 1.5), "cross_attention": (1.25, 2.2), "hirae": (3.7, 3.0)}
"""Numbers that a fusion keeps per layer and token, in units of its width and of its experts' hidden dim, counted in the
same way; other variants are computed as `energy` is, which keeps down to half of it where experts are small."""
GPU_TFLOPS = 300.0
"""TFLOP/s that one GPU is assumed to sustain: 30% of an H100's bf16 peak."""
IMAGENET_IMAGES = 1_281_167
"""Of ImageNet-1K's training set."""
IMAGENET_CLASSES = 1000
IMAGENET_VALIDATION = 50_000
"""Images of its validation set."""
PHOTO_CROPS = 3000
"""Training crops of the photographs where a config does not say how many (`images.train_images`)."""
ANYWHERE = Runtime(device="cpu", cache_dir="")
"""Of arithmetic that is to be the same on every machine: cached features, nothing recomputed."""


class EncoderShape(NamedTuple):
    """Sizes of a timm ViT."""

    depth: int
    width: int
    patch: int
    mlp: float = 4.0
    """Width of a block's MLP as a multiple of `width`; a gated MLP's three matrices count as the two of a wider one."""


KNOWN_SHAPES = {
    "vit_small_patch14_dinov2": EncoderShape(12, 384, 14),
    "vit_base_patch14_reg4_dinov2": EncoderShape(12, 768, 14),
}
"""The presets' encoders. Importing timm to ask it takes as long as a small trial."""
FAMILIES = {
    "tiny": EncoderShape(12, 192, 16), "small": EncoderShape(12, 384, 14), "base": EncoderShape(12, 768, 14),
    "large": EncoderShape(24, 1024, 14), "so400m": EncoderShape(27, 1152, 14, 4304 / 1152),
    "huge": EncoderShape(32, 1280, 14), "giant": EncoderShape(40, 1536, 14), "_7b": EncoderShape(40, 4096, 16, 3.0),
}  # fmt: skip
"""By the word in a timm name."""


@functools.cache
def encoder_shape(name: str) -> EncoderShape | None:
    """Returns the sizes of the encoder a config names, without its weights; None where timm knows no such ViT."""
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    import torch

    from drorae.models.backbones import build_vit

    try:
        with torch.device("meta"):
            return _shape_of(build_vit(name))
    except UserError:
        return None


def _shape_of(vit: Backbone) -> EncoderShape:
    from drorae.models.backbones import mlp_width

    width = vit.embed_dim
    return EncoderShape(len(vit.blocks), width, vit.patch_embed.patch_size[0], mlp_width(vit) / width)


def check_encoder(config: TrialConfig) -> None:
    """Raises UserError where timm has no such encoder, or where it has fewer blocks than are fused.

    Where neither is known without timm and timm is not installed, nothing is checked.
    """
    try:
        shape = encoder_shape(config.encoder.name)
    except ImportError:
        return
    if shape is None:
        from drorae.models.backbones import SUPPORTED

        raise UserError(
            f"encoder.name: timm has no ViT named {config.encoder.name!r}; expected {SUPPORTED}, "
            "see timm.list_models('vit*')"
        )
    config.fusion.check_depth(shape.depth)


def guessed_shape(name: str) -> EncoderShape:
    """Returns the sizes of a timm ViT as far as its name tells them, in microseconds."""
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    shape = next((shape for word, shape in FAMILIES.items() if word in name), FAMILIES["small"])
    return shape._replace(patch=patch_size(name) or shape.patch)


@dataclass(frozen=True)
class PhaseNeeds:
    """One phase."""

    name: str
    steps: int
    images: int
    """Images gone through in all epochs."""
    flops_per_image: dict[str, float]
    """By part: encoder, fusion, decoder, perceptual, gan."""
    weight_bytes: float = 0.0
    """fp32 weights of every network in memory."""
    optimiser_bytes: float = 0.0
    """Gradients, AdamW's two moments and the weight average of what is trained, fp32."""
    activation_bytes: float = 0.0
    """Kept for the backward pass by fusion and decoder."""
    perceptual_bytes: float = 0.0
    """Kept by the perceptual network, whatever the phase's precision: in float32, and at most as much where
    `objective.perceptual_precision` is bf16."""

    @property
    def flops(self) -> float:
        """Of the whole phase."""
        return self.images * sum(self.flops_per_image.values())

    @property
    def memory_bytes(self) -> float:
        """All four together."""
        return self.weight_bytes + self.optimiser_bytes + self.activation_bytes + self.perceptual_bytes


@dataclass(frozen=True)
class Needs:
    """A whole trial, evaluation left out."""

    params: dict[str, int]
    """By network. Fusion, decoder, encoder and discriminator heads can be trained."""
    phases: list[PhaseNeeds]

    def hours(self, flops_per_second: float) -> float:
        """Hours on one device that sustains so many floating-point operations per second."""
        return sum(phase.flops for phase in self.phases) / flops_per_second / 3600

    @property
    def memory_bytes(self) -> float:
        """Of the phase that needs most."""
        return max((phase.memory_bytes for phase in self.phases), default=0.0)

    @property
    def step_flops(self) -> float:
        """Of the most demanding training step."""
        return max((phase.flops / max(phase.steps, 1) for phase in self.phases), default=0.0)


def vit_flops(depth: int, width: int, mlp: float, tokens: int) -> tuple[float, float]:
    """Returns those of one image forward through a ViT's blocks: products with weights, and those of attention."""
    return depth * 2.0 * tokens * (4 * width**2 + 2 * width * mlp), depth * 4.0 * tokens**2 * width


def _fusion_flops(config: TrialConfig, shape: EncoderShape, tokens: int) -> tuple[float, float]:
    """Of one image forward: products whose input needs no gradient (the layers), and the others."""
    fusion = config.fusion
    layers, width, hidden = fusion.count or shape.depth, shape.width, fusion.expert_hidden_dim
    if fusion.variant in WITHOUT_WEIGHTS:
        return 0.0, 0.0
    if fusion.variant == "cross_attention":
        return 2.0 * tokens * (1 + 2 * layers) * width * hidden, 2.0 * tokens * width * hidden
    read = layers if fusion.variant != "hirae" else 1
    return 2.0 * tokens * width * layers * (hidden + read), 2.0 * tokens * layers * width * hidden


def _discriminator_flops(config: TrialConfig) -> float:
    """Of one image of a step in which the tokenizer hears the discriminator, all its uses together."""
    shape, side = guessed_shape(config.discriminator.name), config.discriminator.input_size
    patches = max(side // shape.patch, 1) ** 2
    linear, attention = vit_flops(shape.depth, shape.width, shape.mlp * shape.width, patches + 1)
    linear += 2.0 * patches * 3 * shape.patch**2 * shape.width
    heads = 5 * 2.0 * patches * (1 + config.discriminator.kernel) * shape.width**2
    forward, back = linear + attention + heads, linear + 2 * attention + heads
    # The tokenizer's term; once more back for the adaptive weight; the heads' step on a reconstruction and an original.
    return forward + 2 * back + 2 * (forward + 2 * heads)


def seen_pixels(config: TrialConfig) -> int:
    """Returns the pixels of an image as the perceptual network gets it."""
    whole = config.objective.perceptual == "lpips_vgg"
    return (config.images.size if whole else config.objective.perceptual_size) ** 2


def flops_per_image(
    config: TrialConfig, shape: EncoderShape, phase: Phase, online: bool, recompute: bool
) -> dict[str, float]:
    """Floating-point operations of one training image.

    Args:
        config: the trial.
        shape: sizes of its encoder.
        phase: which parts are trained, and on which latent.
        online: whether images are encoded in every step rather than once.
        recompute: whether the decoder's activations are computed again in the backward pass.

    Returns:
        By part: encoder, fusion, decoder, perceptual, gan (as long as the tokenizer hears the discriminator).
    """
    tokens = max(config.encoder.input_size // shape.patch, 1) ** 2
    decoder, objective = config.decoder, config.objective
    own = phase.number > 1 and config.trains_encoder
    first, second = _fusion_flops(config, shape, tokens)
    linear, attention = vit_flops(decoder.depth, decoder.width, decoder.mlp_dim, tokens + 1)
    ends = 2.0 * tokens * decoder.width * (shape.width + 3 * config.images.size**2 / tokens)
    forward = linear + attention + ends
    back = (2 if "decoder" in phase.trains else 1) * (linear + ends) + 2 * attention
    lpips = objective.perceptual == "lpips_vgg"
    seen = PERCEPTUAL_FLOPS[objective.perceptual] * seen_pixels(config)
    encoder, fusion, seeing = 0.0, (first + second if phase.fused else 0.0), 0.0
    if online or own:
        products, scores = vit_flops(shape.depth, shape.width, shape.mlp * shape.width, tokens + 1)
        products += 2.0 * tokens * 3 * shape.patch**2 * shape.width
        encoder = products + scores + (2 * products + 2 * scores if "encoder" in phase.trains else 0.0)
        # With an encoder of its own, what is painted again is encoded again.
        seeing = products + scores if own else 0.0
    if "fusion" in phase.trains:
        fusion += first + 2 * second
    if phase.fused and "encoder" in phase.trains:
        # Back through the experts to the layers.
        fusion += first if "fusion" in phase.trains else first + second
    # To the decoder's last weight, twice, for the adaptive weight.
    last = 2 * 2.0 * tokens * decoder.width * 3 * config.images.size**2 / tokens + seen
    again = forward + seeing + (first + second if phase.fused else 0.0)
    last += again if config.discriminator.fakes == "repainted" else 0.0
    return {
        "encoder": encoder,
        "fusion": fusion,
        "decoder": forward + back + (forward if recompute else 0.0),
        # The original's features as well, unless they are cached.
        "perceptual": seen * (3 if lpips or online else 2),
        "gan": _discriminator_flops(config) + last if objective.gan_weight else 0.0,
    }


def forward_flops(config: TrialConfig, shape: EncoderShape) -> dict[str, float]:
    """Returns those of one image through a tokenizer that is not trained: encoder, fusion (if any) and decoder."""
    encoder = flops_per_image(config, shape, config.phases[0], True, False)["encoder"]
    fused = replace(config.phases[1], trains=("decoder",))
    # A decoder that is computed again is gone through forward once more.
    again, once = (flops_per_image(config, shape, fused, False, recompute) for recompute in (True, False))
    return {"encoder": encoder, "fusion": once["fusion"], "decoder": again["decoder"] - once["decoder"]}


def phase_needs(
    config: TrialConfig, runtime: Runtime, shape: EncoderShape, images: int, params: dict[str, int]
) -> list[PhaseNeeds]:
    """Returns what each phase that is trained takes.

    Args:
        config: the trial.
        runtime: whether features are cached and activations recomputed, and how many images go through at once.
        shape: sizes of its encoder.
        images: training crops an epoch.
        params: of every network, `Needs.params`.
    """
    config = settled(config)
    online = runtime.features == "online" or config.images.views == 0
    found = []
    for phase in config.phases:
        settings, trained = phase.settings, sum(params[part] for part in phase.trains)
        # A released decoder spares phase 1, and a fusion without weights is not trained.
        spared = (phase.number == 1 and config.decoder.weights) or not trained
        if not settings.epochs or spared:
            continue
        flops = flops_per_image(config, shape, phase, online, runtime.activation_checkpointing)
        batch = max(min(settings.batch_size, images), 1)
        steps = settings.epochs * (images // batch)
        flops["gan"] *= max(steps - settings.gan_start_steps, 0) / max(steps, 1)
        kept = 4.0 if settings.ema_decay else 0.0
        heads = params.get("discriminator heads", 0)
        found.append(
            PhaseNeeds(
                phase.name, steps, steps * batch, flops,
                weight_bytes=4.0 * sum(params.values()),
                optimiser_bytes=trained * (12.0 + kept) + 12.0 * heads,
                activation_bytes=_activation_bytes(config, runtime, shape, phase, batch),
                perceptual_bytes=min(runtime.micro_batch or batch, batch) * seen_pixels(config)
                * PERCEPTUAL_NUMBERS[config.objective.perceptual] * ELEMENT_BYTES["fp32"],
            )
        )  # fmt: skip
    return found


def _activation_bytes(config: TrialConfig, runtime: Runtime, shape: EncoderShape, phase: Phase, batch: int) -> float:
    settings = phase.settings
    tokens = max(config.encoder.input_size // shape.patch, 1) ** 2
    decoder, element = config.decoder, ELEMENT_BYTES[settings.precision]
    at_once = min(runtime.micro_batch or batch, batch)
    rows = at_once * (tokens + 1)
    # ACTIVATION_BYTES are of an MLP four times as wide, whose share of the 34 is 16 (GELU's input and the second
    # product's).
    wide = ACTIVATION_BYTES[settings.precision] * (18 + 4 * decoder.mlp_dim / decoder.width) / 34
    block = rows * decoder.width * wide
    kept = decoder.depth * block
    if runtime.activation_checkpointing:
        kept = decoder.depth * rows * decoder.width * element + block
    if phase.fused and {"fusion", "encoder"} & set(phase.trains):
        of_width, of_hidden = FUSION_NUMBERS.get(config.fusion.variant, FUSION_NUMBERS["energy"])
        numbers = of_width * shape.width + of_hidden * config.fusion.expert_hidden_dim
        kept += at_once * tokens * (config.fusion.count or shape.depth) * numbers * element
    if "encoder" in phase.trains:
        kept += shape.depth * rows * shape.width * ACTIVATION_BYTES[settings.precision]
    return kept


def rough_params(config: TrialConfig, shape: EncoderShape) -> dict[str, int]:
    """Returns the parameters of the networks that are trained, without biases and norms; builds none of them."""
    decoder = config.decoder
    first, second = _fusion_flops(config, shape, 1)
    return {
        "fusion": int(first + second) // 2,
        "decoder": decoder.depth * (4 * decoder.width**2 + 2 * decoder.width * decoder.mlp_dim),
        "encoder": int(shape.depth * (4 + 2 * shape.mlp) * shape.width**2) if config.trains_encoder else 0,
    }


def rough_needs(config: TrialConfig, runtime: Runtime, shape: EncoderShape) -> Needs:
    """Returns what a trial takes, as far as sizes alone tell it; a guess where the number of images is unknown."""
    images = (config.images.train_images or PHOTO_CROPS) * max(config.images.views, 1)
    params = rough_params(config, shape)
    return Needs(params, phase_needs(config, runtime, shape, images, params))


def train_flops(config: TrialConfig, shape: EncoderShape, images: int, fusion_params: int) -> float:
    """Returns the floating-point operations of a trial's own phases, 2 and 3.

    That is the sum over both of steps x batch size x those of one image (`flops_per_image`).

    Features are taken to be cached unless crops are fresh, and nothing to be computed twice, so that the number depends
    on no machine.

    Args:
        config: the trial.
        shape: sizes of its encoder.
        images: training crops an epoch.
        fusion_params: trainable scalars of the fusion; without any there is no phase 2.
    """
    params = rough_params(config, shape) | {"fusion": fusion_params}
    phases = phase_needs(config, ANYWHERE, shape, images, params)
    return sum(phase.flops for phase in phases if phase.name != "phase1")


def measure(config: TrialConfig, runtime: Runtime, images: int) -> Needs:
    """Returns what a trial takes with `images` training crops an epoch; its networks are built, without storage.

    Raises:
        UserError: sizes that do not fit, or networks timm does not know.
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    from drorae.losses.discriminator import DinoDiscriminator
    from drorae.models.backbones import build_vit
    from drorae.models.decoder import Decoder
    from drorae.models.fusion.registry import LayerFusion
    from drorae.models.fusion.size import exact_params

    critic = config.discriminator
    with torch.device("meta"):
        vit = build_vit(config.encoder.name, img_size=config.encoder.input_size)
        shape = _shape_of(vit)
        norm = nn.LayerNorm(shape.width, elementwise_affine=False)
        params = {
            "encoder": exact_params(vit),
            "fusion": exact_params(LayerFusion(config.fusion, shape.depth, norm)),
            "decoder": exact_params(
                Decoder(config.decoder, shape.width, vit.patch_embed.grid_size[0], config.images.size)
            ),
            "perceptual": PERCEPTUAL_PARAMS[config.objective.perceptual],
            "discriminator heads": 0,
            "discriminator transformer": 0,
        }
        if config.objective.gan_weight:
            transformer = build_vit(critic.name, img_size=critic.input_size)
            if not isinstance(transformer, VisionTransformer):
                raise UserError(f"discriminator.name: {critic.name} is a {type(transformer).__name__}; expected a ViT")
            discriminator = DinoDiscriminator(transformer, critic)
            params["discriminator heads"] = exact_params(discriminator)
            params["discriminator transformer"] = exact_params(discriminator.vit)
    return Needs(params, phase_needs(config, runtime, shape, images, params))


class TrainImages(NamedTuple):
    """What there is to train on."""

    crops: int
    """An epoch."""
    counted: bool
    """Whether the images are here; else the numbers are ImageNet's."""
    classes: int
    """0: the images have none."""


def train_images(config: TrialConfig, runtime: Runtime) -> TrainImages:
    """Counts the training crops of an epoch and the images' classes; takes ImageNet's numbers where none are here.

    Raises:
        UserError: the images are there and cannot be used.
    """
    from drorae.data.images import load_images
    from drorae.storage.cache import Cache

    source = config.images
    if source.source != "photos" and not is_there(source.path):
        return TrainImages(min(source.train_images or IMAGENET_IMAGES, IMAGENET_IMAGES), False, IMAGENET_CLASSES)
    images = load_images(source, Cache(runtime.cache_dir))
    return TrainImages(len(images.train) * max(source.views, 1), True, images.classes)

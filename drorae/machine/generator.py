"""What a trial's generator takes: parameters, arithmetic, memory and disk, and what its images cost. In closed form.

The sizes of DiT^DH are those of `drorae.generation.transformer`, which needs torch; nothing here does.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from drorae.config import GeneratorConfig, Runtime, TrialConfig
from drorae.errors import UserError
from drorae.machine.needs import (
    ELEMENT_BYTES,
    IMAGENET_CLASSES,
    IMAGENET_VALIDATION,
    KNOWN_SHAPES,
    PHOTO_CROPS,
    EncoderShape,
    forward_flops,
    guessed_shape,
    vit_flops,
)
from drorae.storage.remote import expanded

TIME_FEATURES = 512
"""Sines and cosines of a time."""
VIEWS = 2
"""Latents of each training image: its own and its flip's."""
BLOCK_BYTES = {"fp32": (64, 16), "bf16": (46, 8)}
"""Bytes that a block keeps for the backward pass per token: for each unit of its width, and of its MLP's hidden width.
Counted with autograd's hooks, as the next."""
TOLD_BYTES = {"fp32": 36, "bf16": 12}
"""More of them per token and unit of width of a block that is modulated token by token, as the head's are."""
EXTRACTOR_FLOPS = {"effnet": 15302.4375, "effnet2": 22928.46875}
"""Per pixel, forward: EfficientNet-Lite0 and Lite2 up to their pooled features."""
INCEPTION_FLOPS = 11.42e9
"""Of an image, which Inception resizes to 299 px."""
USUAL_TEXT_WIDTH = 768
"""Of the text encoders of CLIP ViT-L/14 and T5-base."""
ALWAYS = "effnet2"
"""The extractor that generated images are measured in whatever a trial names."""
NETWORKS = {"none": 1, "internal": 1, "cfg": 2, "autoguidance": 2}
"""How often a guidance goes through a generator for one velocity: AutoGuidance's bad model is as large as the good."""


@dataclass(frozen=True)
class DrawingNeeds:
    """Images drawn with one guidance."""

    guidance: str
    images: int
    passes: int
    """Through the generator, of each."""
    draw_flops: float
    """Of the generator and, once for an image, the tokenizer's decoder."""
    measure_flops: float
    """Of the networks in whose features they are measured."""

    @property
    def flops(self) -> float:
        """Both."""
        return self.draw_flops + self.measure_flops


@dataclass(frozen=True)
class GeneratorNeeds:
    """A trial's generator."""

    size: str
    condition: str
    classes: int
    """That it is told; 0: none."""
    params: int
    precision: str
    steps: int
    images: int
    """Images gone through in all epochs."""
    flops_per_image: float
    """Of a training step."""
    latent_flops: float
    """Encoding every training image and its flip, once."""
    latent_bytes: float
    """Of these latents, on the disk."""
    weight_bytes: float
    """fp32."""
    optimiser_bytes: float
    """Gradients, AdamW's two moments and the weight average, fp32."""
    activation_bytes: float
    """Kept for the backward pass."""
    control_flops: float
    """Of what the images of every guidance are measured against: validation images in the features of all networks; and
    the controls, training images and their flips, reconstructions, and as many images of a Gaussian, which the
    tokenizer paints."""
    drawings: list[DrawingNeeds]
    """By guidance."""

    @property
    def train_flops(self) -> float:
        """Of the whole training."""
        return self.images * self.flops_per_image

    @property
    def flops(self) -> float:
        """Latents, training, controls, and the images with their measuring."""
        return (
            self.latent_flops + self.train_flops + self.control_flops + sum(drawing.flops for drawing in self.drawings)
        )

    @property
    def memory_bytes(self) -> float:
        """Of the training."""
        return self.weight_bytes + self.optimiser_bytes + self.activation_bytes


def _hidden(width: int) -> int:
    """The hidden width of a block's SwiGLU."""
    return 8 * width // 3


def text_width(name: str) -> int:
    """Returns the width of a text encoder's states, as its folder says; of one on the hub, `USUAL_TEXT_WIDTH`."""
    from huggingface_hub.constants import CONFIG_NAME

    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        tree = json.loads((expanded(name) / CONFIG_NAME).read_text())
        tree = tree.get("text_config", tree)
        return int(tree.get("hidden_size", tree.get("d_model")))
    return USUAL_TEXT_WIDTH


def _context(config: GeneratorConfig) -> int:
    """Tokens that stand beside the latent's in the encoder."""
    return config.text_tokens if config.condition == "text" else 0


def generator_params(config: GeneratorConfig, channels: int, classes: int = 0, told_width: int = 0) -> int:
    """Returns the trained scalars of a generator.

    Args:
        config: the generator.
        channels: of its latents.
        classes: that it may be told.
        told_width: of a text encoder's states, which it may be told instead.
    """

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    def block(width: int) -> int:
        hidden = _hidden(width)
        attention = linear(width, 3 * width) + linear(width, width)
        return 2 * width + attention + 2 * linear(width, hidden) + linear(hidden, width) + linear(width, 6 * width)

    def last(width: int) -> int:
        return width + linear(width, 2 * width) + linear(width, channels)

    width, head = config.width, config.head_width
    # Each class has a row, nothing has one, and texts are projected.
    told = linear(told_width, width) if config.condition == "text" else 0
    told += width * (classes + 1 if config.condition == "class" else 1)
    return (
        linear(TIME_FEATURES, width) + linear(width, width) + told
        + linear(channels, width) + config.depth * block(width) + (last(width) if config.early_depth else 0)
        + (linear(width, head) if width != head else 0)
        + linear(channels, head) + config.head_depth * block(head) + last(head)
    )  # fmt: skip


def generator_flops(config: GeneratorConfig, channels: int, grid: int, told_width: int = 0) -> float:
    """Returns the floating-point operations of one latent [channels, grid, grid] through a generator.

    Args:
        config: the generator.
        channels: of the latent.
        grid: its side.
        told_width: of a text encoder's states, where it is told texts.
    """
    tokens, width, head = grid**2, config.width, config.head_width
    blocks = vit_flops(config.depth, width, 1.5 * _hidden(width), tokens + _context(config))
    heads = vit_flops(config.head_depth, head, 1.5 * _hidden(head), tokens)
    # The encoder's blocks are modulated once for an image, the head's once for a token.
    modulations = 2.0 * 6 * (config.depth * width**2 + config.head_depth * tokens * head**2)
    time = 2.0 * (TIME_FEATURES + width) * width
    lasts = [head, width] if config.early_depth else [head]
    ends = sum(2.0 * tokens * last * (2 * last + channels) for last in lasts)
    widened = 2.0 * tokens * width * head if width != head else 0.0
    inputs = _embedding_flops(config, channels, grid) + _text_flops(config, told_width)
    return sum(blocks) + sum(heads) + modulations + time + ends + widened + inputs


def _embedding_flops(config: GeneratorConfig, channels: int, grid: int) -> float:
    return 2.0 * grid**2 * channels * (config.width + config.head_width)


def _text_flops(config: GeneratorConfig, told_width: int) -> float:
    # Projected for the tokens, and again for their mean.
    return 2 * 2.0 * _context(config) * told_width * config.width


def training_flops(config: GeneratorConfig, channels: int, grid: int, told_width: int = 0) -> float:
    """Returns those of one latent in a training step, forward and back."""
    # Neither latents nor the time's features nor a text's states need a gradient.
    inputs = _embedding_flops(config, channels, grid) + 2.0 * TIME_FEATURES * config.width
    inputs += _text_flops(config, told_width)
    return 3 * generator_flops(config, channels, grid, told_width) - inputs


def activation_bytes(config: GeneratorConfig, grid: int, precision: str) -> float:
    """Returns the bytes that the blocks keep of one latent for the backward pass."""
    of_width, of_hidden = BLOCK_BYTES[precision]

    def block(tokens: int, width: int, more: int) -> float:
        return tokens * (width * (of_width + more) + _hidden(width) * of_hidden)

    encoder = config.depth * block(grid**2 + _context(config), config.width, 0)
    return encoder + config.head_depth * block(grid**2, config.head_width, TOLD_BYTES[precision])


def generator_needs(
    config: TrialConfig, runtime: Runtime, shape: EncoderShape, crops: int, classes: int
) -> GeneratorNeeds | None:
    """Returns what a trial's generator takes; None where it has none.

    Args:
        config: the trial.
        runtime: how many latents go through at once.
        shape: sizes of its encoder.
        crops: training crops an epoch of the tokenizer's phases.
        classes: of the images; 0: they have none.

    Raises:
        UserError: it is to be told classes, and there are none.
    """
    settings = config.generator
    if not settings.epochs:
        return None
    run = settings.run(config.seed, classes > 0)
    model, training = run.model, run.training
    if model.condition == "class" and not classes:
        raise UserError(
            "generator.condition=class needs labels, and the images have none; use generator.condition=none"
        )
    images, grid = crops // max(config.images.views, 1), max(config.encoder.input_size // shape.patch, 1)
    batch = max(min(training.batch_size, images), 1)
    steps = training.epochs * (images // batch)
    told = classes if model.condition == "class" else 0
    told_width = text_width(model.text_encoder) if model.condition == "text" else 0
    params = generator_params(model, shape.width, told, told_width)
    tokenizer, latents = forward_flops(config, shape), VIEWS * images
    return GeneratorNeeds(
        settings.size, model.condition, told, params, training.precision, steps, steps * batch,
        training_flops(model, shape.width, grid, told_width),
        latent_flops=latents * (tokenizer["encoder"] + tokenizer["fusion"]),
        latent_bytes=latents * shape.width * grid**2 * ELEMENT_BYTES[config.encoder.feature_dtype],
        weight_bytes=4.0 * params,
        optimiser_bytes=(16.0 if training.ema_decay else 12.0) * params,
        activation_bytes=min(runtime.micro_batch or batch, batch) * activation_bytes(model, grid, training.precision),
        control_flops=_control_flops(config, tokenizer, latents),
        drawings=_drawings(config, generator_flops(model, shape.width, grid, told_width), tokenizer["decoder"]),
    )  # fmt: skip


def rough_generator(config: TrialConfig, runtime: Runtime, shape: EncoderShape | None = None) -> GeneratorNeeds | None:
    """Returns the same as far as sizes alone tell it, without torch.

    Images other than photographs are taken to have ImageNet's number of classes, and an encoder whose sizes are not
    given those that its name tells.
    """
    crops = (config.images.train_images or PHOTO_CROPS) * max(config.images.views, 1)
    classes = 0 if config.images.source == "photos" else IMAGENET_CLASSES
    return generator_needs(config, runtime, shape or guessed_shape(config.encoder.name), crops, classes)


def _extractors(config: TrialConfig) -> list[str]:
    """The networks that images are measured by."""
    return list(dict.fromkeys((ALWAYS, *config.evaluation.extractors)))


def _control_flops(config: TrialConfig, tokenizer: dict[str, float], seen: int) -> float:
    """What images are measured against.

    Args:
        config: the trial.
        tokenizer: operations of its parts for one image (`forward_flops`).
        seen: training images, flips too.
    """
    real, samples = config.images.val_images or IMAGENET_VALIDATION, config.generator.samples
    measured = real * sum(_extractor_flops(config, name) for name in _extractors(config))
    measured += (seen + real + samples) * _extractor_flops(config, ALWAYS)
    return measured + real * sum(tokenizer.values()) + samples * tokenizer["decoder"]


def _drawings(config: TrialConfig, forward: float, decoder: float) -> list[DrawingNeeds]:
    """What the images of each guidance cost.

    Args:
        config: the trial.
        forward: operations of the generator for one latent.
        decoder: those of the tokenizer's decoder.
    """
    settings, samples = config.generator, config.generator.samples
    measured = samples * sum(_extractor_flops(config, name) for name in _extractors(config))
    # Heun's method takes the velocity at both ends of a step.
    velocities = settings.steps * (2 if settings.method == "heun" else 1)
    found = []
    for guidance in settings.guidance:
        passes = velocities * NETWORKS[guidance.partition("=")[0]]
        found.append(DrawingNeeds(guidance, samples, passes, samples * (passes * forward + decoder), measured))
    return found


def _extractor_flops(config: TrialConfig, name: str) -> float:
    """Those of one image through a network of `evaluation.extractors`."""
    if name == "inception":
        return INCEPTION_FLOPS
    if name != "dinov2":
        return EXTRACTOR_FLOPS[name] * float(getattr(config.evaluation, f"{name}_size")) ** 2
    shape = KNOWN_SHAPES["vit_small_patch14_dinov2"]
    patches = (config.evaluation.dinov2_size // shape.patch) ** 2
    blocks = vit_flops(shape.depth, shape.width, shape.mlp * shape.width, patches + 1)
    return sum(blocks) + 2.0 * patches * 3 * shape.patch**2 * shape.width

"""What bounds a trial: hours of each part, memory and disk, all estimates from arithmetic."""

from __future__ import annotations

from typing import NamedTuple

from drorae.config import Runtime, TrialConfig
from drorae.machine.generator import VIEWS, GeneratorNeeds, rough_generator
from drorae.machine.needs import (
    ELEMENT_BYTES,
    IMAGENET_VALIDATION,
    PHOTO_CROPS,
    Needs,
    forward_flops,
    guessed_shape,
    rough_needs,
)

LOADER_RATES = {"pillow": 235.0, "torch": 520.0}
"""Images a second that one core reads, decodes and crops, by `images.resampling`: Pillow's measured on JPEGs of 288 px,
torch's 2.2 times that, as measured in turn on the same taken to 384."""
PARTS = {
    "encoder": "encoder",
    "fusion": "fusion",
    "decoder": "decoder",
    "perceptual": "perceptual",
    "gan": "discriminator",
}
"""Titles of the parts of `flops_per_image`."""


class Bound(NamedTuple):
    """One of them."""

    what: str
    hours: float | None
    gigabytes: float | None
    """10^9 bytes."""
    how: str
    """The assumption behind it."""


def bounds(
    config: TrialConfig,
    runtime: Runtime,
    needs: Needs,
    images: int,
    flops_per_second: float,
    generator: GeneratorNeeds | None = None,
) -> list[Bound]:
    """Returns the bounds of a whole trial, phase 1 included.

    Args:
        config: the trial.
        runtime: whether features are cached.
        needs: of the same trial.
        images: training crops an epoch.
        flops_per_second: what one device is assumed to sustain.
        generator: what the trial's generator takes; None: it has none.
    """
    online = runtime.features == "online" or config.images.views == 0
    shape = guessed_shape(config.encoder.name)

    def hours(flops: float) -> float:
        return flops / flops_per_second / 3600

    used = {part: sum(phase.images * phase.flops_per_image[part] for phase in needs.phases) for part in PARTS}
    # Encoded once, where a cache keeps it.
    forward = forward_flops(config, shape)
    used["encoder"] += 0 if online else images * forward["encoder"]
    read: float = sum(phase.images for phase in needs.phases) if online else images
    device = f"at {flops_per_second / 1e12:g} TFLOP/s on one device, an assumption"
    measured = config.images.val_images or IMAGENET_VALIDATION
    passes = measured * len(needs.phases) * sum(forward.values())
    tokens = max(config.encoder.input_size // shape.patch, 1) ** 2
    layers = shape.depth * tokens * shape.width * ELEMENT_BYTES[config.encoder.feature_dtype]
    cached = 0.0 if online else images * (layers + 3 * config.images.size**2)
    checkpoint = max((phase.optimiser_bytes for phase in needs.phases), default=0.0)
    trained = {part for phase in needs.phases for part in _trained(config, phase.name)}
    weights: float = ELEMENT_BYTES["fp32"] * sum(needs.params.get(part, 0) for part in trained)
    memory, kept, flops = needs.memory_bytes, "features, a checkpoint, weights", sum(used.values()) + passes
    rate, rows = LOADER_RATES[config.images.resampling], list[Bound]()
    if generator is not None:
        rows = _generator_bounds(generator, flops_per_second)
        mirrored = VIEWS * images // max(config.images.views, 1)
        read += mirrored
        # AutoGuidance's bad model is kept beside the last weights.
        weights += generator.latent_bytes + 2 * generator.weight_bytes
        checkpoint, memory = max(checkpoint, generator.optimiser_bytes), max(memory, generator.memory_bytes)
        kept, flops = f"{kept}, latents", flops + generator.flops
        # What the latents are of is encoded once for all trials, too.
        cached += 0.0 if online else mirrored * (layers + 3 * config.images.size**2)
    return [
        Bound("loader", read / rate / 3600, None, f"one core at {rate:g} images/s, measured at 288 px"),
        *(Bound(title, hours(used[part]), None, device) for part, title in PARTS.items()),
        Bound("evaluation", hours(passes), None, f"{measured:,} images after each phase, without the extractors"),
        *rows,
        Bound("checkpoint", None, checkpoint / 1e9, "written in at most 2% of the time"),
        Bound("disk", None, (cached + checkpoint + weights) / 1e9, f"{kept}; no perceptual targets"),
        Bound("memory", None, memory / 1e9, "of the phase that needs most, without the discriminator's own"),
        Bound("in all", hours(flops), None, f"{device}, if the loader keeps up"),
    ]


def _generator_bounds(generator: GeneratorNeeds, flops_per_second: float) -> list[Bound]:
    """What the generator adds."""
    at = f"at {flops_per_second / 1e12:g} TFLOP/s, an assumption"

    def hours(flops: float) -> float:
        return flops / flops_per_second / 3600

    drawn = [
        Bound(
            f"drawing, {drawing.guidance}", hours(drawing.flops), None,
            f"{drawing.images:,} images, {drawing.passes} passes each, with their extractors",
        )
        for drawing in generator.drawings
    ]  # fmt: skip
    return [
        Bound("latents", hours(generator.latent_flops), generator.latent_bytes / 1e9, "of every image and its flip"),
        Bound("generator", hours(generator.train_flops), generator.memory_bytes / 1e9, f"{generator.precision}, {at}"),
        Bound(
            "controls", hours(generator.control_flops), None, "what images are measured against, once for all guidances"
        ),
        *drawn,
    ]


def rough_bounds(config: TrialConfig, runtime: Runtime, flops_per_second: float) -> list[Bound]:
    """Returns the bounds as far as sizes alone tell them, without torch; arguments as for `bounds`."""
    needs = rough_needs(config, runtime, guessed_shape(config.encoder.name))
    images = (config.images.train_images or PHOTO_CROPS) * max(config.images.views, 1)
    return bounds(config, runtime, needs, images, flops_per_second, rough_generator(config, runtime))


def _trained(config: TrialConfig, name: str) -> tuple[str, ...]:
    return next(phase.trains for phase in config.phases if phase.name == name)

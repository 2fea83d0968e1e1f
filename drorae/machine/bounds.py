"""What bounds a trial: hours of each part, memory and disk, all estimates from arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from drorae.config import Runtime, TrialConfig
from drorae.machine.needs import ELEMENT_BYTES, PHOTO_CROPS, Needs, flops_per_image, guessed_shape, rough_needs

LOADER_RATE = 235.0
"""Images a second that one core reads, decodes and crops: measured on JPEGs of 288 px."""
IMAGENET_VALIDATION = 50_000
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


def bounds(config: TrialConfig, runtime: Runtime, needs: Needs, images: int, flops_per_second: float) -> list[Bound]:
    """Returns the bounds of a whole trial, phase 1 included.

    Args:
        config: the trial.
        runtime: whether features are cached.
        needs: of the same trial.
        images: training crops an epoch.
        flops_per_second: what one device is assumed to sustain.
    """
    online = runtime.features == "online" or config.images.views == 0
    shape = guessed_shape(config.encoder.name)

    def hours(flops: float) -> float:
        return flops / flops_per_second / 3600

    used = {part: sum(phase.images * phase.flops_per_image[part] for phase in needs.phases) for part in PARTS}
    # Encoded once, where a cache keeps it.
    forward = flops_per_image(config, shape, config.phases[0], True, False)
    used["encoder"] += 0 if online else images * forward["encoder"]
    read = sum(phase.images for phase in needs.phases) if online else images
    device = f"at {flops_per_second / 1e12:g} TFLOP/s on one device, an assumption"
    measured = config.images.val_images or IMAGENET_VALIDATION
    fused = replace(config.phases[1], trains=("decoder",))
    again, once = (flops_per_image(config, shape, fused, False, recompute) for recompute in (True, False))
    # A decoder that is computed again is gone through forward once more.
    passes = measured * len(needs.phases) * (forward["encoder"] + once["fusion"] + again["decoder"] - once["decoder"])
    tokens = max(config.encoder.input_size // shape.patch, 1) ** 2
    layers = shape.depth * tokens * shape.width * ELEMENT_BYTES[config.encoder.feature_dtype]
    cached = 0.0 if online else images * (layers + 3 * config.images.size**2)
    checkpoint = max((phase.optimiser_bytes for phase in needs.phases), default=0.0)
    trained = {part for phase in needs.phases for part in _trained(config, phase.name)}
    weights = ELEMENT_BYTES["fp32"] * sum(needs.params.get(part, 0) for part in trained)
    return [
        Bound("loader", read / LOADER_RATE / 3600, None, f"one core at {LOADER_RATE:g} images/s, measured at 288 px"),
        *(Bound(title, hours(used[part]), None, device) for part, title in PARTS.items()),
        Bound("evaluation", hours(passes), None, f"{measured:,} images after each phase, without the extractors"),
        Bound("checkpoint", None, checkpoint / 1e9, "written in at most 2% of the time"),
        Bound(
            "disk",
            None,
            (cached + checkpoint + weights) / 1e9,
            "features, a checkpoint, weights; no perceptual targets",
        ),
        Bound(
            "memory", None, needs.memory_bytes / 1e9, "of the phase that needs most, without the discriminator's own"
        ),
        Bound("in all", hours(sum(used.values()) + passes), None, f"{device}, if the loader keeps up"),
    ]


def rough_bounds(config: TrialConfig, runtime: Runtime, flops_per_second: float) -> list[Bound]:
    """Returns the bounds as far as sizes alone tell them, without torch; arguments as for `bounds`."""
    needs = rough_needs(config, runtime, guessed_shape(config.encoder.name))
    images = (config.images.train_images or PHOTO_CROPS) * max(config.images.views, 1)
    return bounds(config, runtime, needs, images, flops_per_second)


def _trained(config: TrialConfig, name: str) -> tuple[str, ...]:
    return next(phase.trains for phase in config.phases if phase.name == name)

"""A set of generated images measured against the trial's validation images, and the controls beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import Features
from drorae.data.mirrored import Mirrored
from drorae.data.pixels import to_uint8
from drorae.diagnostics.gaussian import PositionGaussian, fit_gaussian
from drorae.diagnostics.latents import as_tokens, painted_batches
from drorae.errors import UserError
from drorae.generation.drawing import Drawing
from drorae.metrics.controls import Controls, ControlSets, measure_controls
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.metrics.generation import Target, image_features, measure_generated
from drorae.metrics.samples import FeatureSample
from drorae.runtime import out_of_memory
from drorae.storage.files import naming_full_disk
from drorae.training.loop import Report
from drorae.trial.folder import GENERATED, write_tree
from drorae.trial.generator import Generator
from drorae.trial.latents import mirrored_features, open_latents
from drorae.trial.samples import Sink

HEAD = "effnet2"
"""The extractor of the controls, whatever the trial's: neither training nor a tokenizer looks through it."""
FEWEST = 10
"""Samples that can be measured: a score is taken in 10 parts."""


class Generated(NamedTuple):
    """What was measured."""

    metrics: dict[str, float]
    """As `drorae.metrics.generation.measure_generated` names them, each with its number of images."""
    controls: Controls
    """In the features of `extractor`."""
    gaussian: dict[str, Any]
    """What the Gaussian control is (`PositionGaussian.record`)."""
    extractor: str
    """Name of the distance that the controls are read beside."""

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "metrics": self.metrics,
            "controls": self.controls.record() | self.gaussian | {"metric": self.extractor},
            "verdicts": [str(self.controls.learned), str(self.controls.memorised)],
        }


def measure_samples(
    generator: Generator, drawing: Drawing, sink: Sink, folder: Path, report: Report = lambda row: None
) -> Generated:
    """Measures samples in EfficientNet-Lite2's features and those of the trial's extractors, and their controls.

    Args:
        generator: what drew them.
        drawing: how; its seed draws the Gaussian's latents, too.
        sink: the samples, all of them.
        folder: gets generated.json.
        report: gets rows of progress.

    Raises:
        UserError: fewer images than can be measured, weights of an extractor missing, or too little memory.
    """
    check_count(drawing.count)
    with naming_full_disk(folder), out_of_memory.as_user_error("measuring samples", "lower evaluation.batch_size"):
        try:
            found = _measure(generator, drawing, sink, report)
        except ValueError as error:
            raise UserError(f"samples: {error}; draw more (--n), or give more validation images") from None
        write_tree(folder, GENERATED, found.record())
    return found


def check_count(count: int) -> None:
    """Raises UserError for fewer samples than can be measured."""
    if count < FEWEST:
        raise UserError(f"--n {count}: expected {FEWEST} or more with --measure")


def _measure(generator: Generator, drawing: Drawing, sink: Sink, report: Report) -> Generated:
    workshop = generator.workshop
    settings, device = workshop.config.evaluation, workshop.device
    extractors = {extractor.name: extractor for extractor in workshop.extractors}
    head = extractors.get(HEAD) or load_extractor(HEAD, settings, workshop.runtime.cache_dir, device)
    metrics: dict[str, float] = {}

    def measured(extractor: FeatureExtractor) -> tuple[FeatureSample, FeatureSample]:
        report({"phase": "evaluation", "note": f"measuring {drawing.count} samples, {extractor.generated_metric}"})
        generated = image_features(_drawn(sink, settings.batch_size, device), extractor)
        real = image_features(_crops(workshop.val, settings.batch_size, device), extractor)
        metrics.update(measure_generated(extractor, generated, Target.of(real)))
        return generated.features, real.features

    samples, val = measured(head)
    for name, extractor in extractors.items():
        if name != HEAD:
            measured(extractor)
    report({"phase": "evaluation", "note": "measuring the controls"})
    gaussian = _fit(generator, report)
    sets = ControlSets(
        train=_features(_training_crops(generator), head),
        val=val,
        reconstructions=_features(_reconstructed(generator), head),
        gaussian=_features(_of_gaussian(generator, gaussian, drawing), head),
        samples=samples,
    )
    return Generated(metrics, measure_controls(sets, drawing.seed), gaussian.record(), head.generated_metric)


@torch.no_grad()
def _features(batches: Iterable[Tensor], extractor: FeatureExtractor) -> FeatureSample:
    found = FeatureSample(extractor.dim)
    for images in batches:
        found.update(extractor(images))
    return found


def _parts(count: int, size: int) -> Iterator[np.ndarray]:
    """The numbers of `count` items, `size` at once."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _drawn(sink: Sink, size: int, device: torch.device) -> Iterator[Tensor]:
    """Generated images, uint8 [B, 3, H, W] as all that follow."""
    for pixels in sink.batches(size):
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)


def _crops(features: Features, size: int, device: torch.device) -> Iterator[Tensor]:
    for items in _parts(len(features), size):
        yield features.batch(items, 0, 0).pixels.to(device)


def _training_crops(generator: Generator) -> Iterator[Tensor]:
    """What the generator has seen: the evaluation crops of the training images, and their flips."""
    workshop = generator.workshop
    mirrored = mirrored_features(workshop, Mirrored(workshop.images.train))
    return _crops(mirrored, workshop.config.evaluation.batch_size, workshop.device)


def _reconstructed(generator: Generator) -> Iterator[Tensor]:
    """The validation images through the tokenizer."""
    workshop, settings = generator.workshop, generator.workshop.config.evaluation
    items = np.arange(len(workshop.val))
    pairs = painted_batches(
        generator.tokenizer, workshop.val, items, settings.batch_size, quantise=settings.quantise
    )  # fmt: skip
    return (painted for painted, _ in pairs)


def _fit(generator: Generator, report: Report) -> PositionGaussian:
    """A Gaussian per position of the latents that the generator was trained on."""
    workshop = generator.workshop
    latents = open_latents(workshop, generator.tokenizer, report)
    count, size = len(latents.array), workshop.config.evaluation.batch_size
    return fit_gaussian(
        (as_tokens(latents.take(items)).to(workshop.device) for items in _parts(count, size)), count
    )  # fmt: skip


@torch.no_grad()
def _of_gaussian(generator: Generator, gaussian: PositionGaussian, drawing: Drawing) -> Iterator[Tensor]:
    """As many of its latents as there are samples, decoded."""
    settings = generator.workshop.config.evaluation
    for items in _parts(drawing.count, settings.batch_size):
        latents = gaussian.draw(items.tolist(), drawing.seed)
        yield to_uint8(generator.tokenizer.decode(latents), settings.quantise)

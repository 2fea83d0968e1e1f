"""Generated images measured against the trial's validation images, and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import Features
from drorae.data.mirrored import VIEWS, Mirrored
from drorae.data.pixels import to_uint8
from drorae.diagnostics.gaussian import PositionGaussian, fit_gaussian
from drorae.diagnostics.latents import as_tokens, painted_batches
from drorae.errors import UserError
from drorae.metrics.classes import LinearClassifier
from drorae.metrics.controls import Controls, ControlSets, measure_controls
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.metrics.generation import ImageFeatures, Target, measure_generated
from drorae.metrics.registry import COUNT
from drorae.metrics.samples import FeatureSample
from drorae.runtime import distributed, out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import naming_full_disk
from drorae.training.loop import Report
from drorae.trial.folder import GENERATED, write_tree
from drorae.trial.generator import Generator
from drorae.trial.image_sets import ImageSet, Progress, cropped_images, in_parts, real_images
from drorae.trial.latents import mirrored_features, open_latents
from drorae.trial.samples import Sink
from drorae.trial.shared import Workshop, kept_features

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
    accuracies: dict[str, float]
    """Of the controls, where classes were asked for: the share seen as of its class."""

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "metrics": self.metrics,
            "controls": self.controls.record() | self.gaussian | {"metric": self.extractor} | self.accuracies,
            "verdicts": [str(self.controls.learned), str(self.controls.memorised)],
        }


@dataclass(frozen=True)
class Yardsticks:
    """What samples of a generator are measured against, the same for all sets of so many samples and this seed."""

    generator: Generator
    count: int
    """Of the samples, and of the Gaussian's."""
    seed: int
    head: FeatureExtractor
    """Of the controls."""
    others: tuple[FeatureExtractor, ...]
    """The trial's, where they are not the head."""
    val: dict[str, ImageFeatures]
    """The validation images', by the extractor's name."""
    train: FeatureSample
    val_views: FeatureSample
    """The validation images and their flips."""
    reconstructions: FeatureSample
    gaussian: FeatureSample
    fitted: PositionGaussian
    classifier: LinearClassifier | None
    """Of the training images' classes, in the head's features; None where they have none."""


def read_yardsticks(generator: Generator, count: int, seed: int = 0, report: Report = lambda row: None) -> Yardsticks:
    """Reads validation images and controls in EfficientNet-Lite2's features and those of the trial's extractors.

    Several processes on a trial, all of which call it, go through a part of each set; what they find is the main one's.

    Args:
        generator: whose samples are to be measured.
        count: of the samples.
        seed: draws the Gaussian's latents, and chooses training images.
        report: gets rows of progress.

    Raises:
        UserError: fewer images than can be measured, weights of an extractor missing, or too little memory.
    """
    check_count(count)
    with naming_full_disk(generator.directory), _lower_batch():
        return _read(generator, count, seed, report)


def measure_samples(
    yardsticks: Yardsticks,
    sink: Sink,
    folder: Path,
    report: Report = lambda row: None,
    labels: Sequence[int] = (),
) -> Generated:
    """Measures as many samples as the yardsticks are for, with their controls; several processes a part each.

    Args:
        yardsticks: of the generator that drew them.
        sink: the samples, all of them.
        folder: gets generated.json.
        report: gets rows of progress.
        labels: the class that was asked for of each; empty: none was.

    Raises:
        UserError: too few samples or validation images for a metric, or too little memory.
    """
    with naming_full_disk(folder), _lower_batch():
        try:
            found = distributed.from_main(_measure(yardsticks, sink, report, labels))
        except ValueError as error:
            raise UserError(f"samples: {error}; draw more (--n), or give more validation images") from None
        assert found is not None
        if distributed.is_main():
            write_tree(folder, GENERATED, found.record())
    return found


def looked_at(train: int, val: int, count: int, extractors: Iterable[str]) -> int:
    """Returns how many images the controls of so many samples take, those that each network sees counted apart.

    Args:
        train: training images, each without its views.
        val: validation images.
        count: of the samples.
        extractors: names of the trial's.
    """
    return len({HEAD, *extractors}) * val + VIEWS * (train + val) + val + count


def check_count(count: int) -> None:
    """Raises UserError for fewer samples than can be measured."""
    if count < FEWEST:
        raise UserError(f"--n {count}: expected {FEWEST} or more with --measure")


def _lower_batch() -> AbstractContextManager[None]:
    return out_of_memory.as_user_error("measuring samples", "lower evaluation.batch_size")


def _read(generator: Generator, count: int, seed: int, report: Report) -> Yardsticks:
    workshop = generator.workshop
    extractors = {extractor.name: extractor for extractor in workshop.extractors}
    settings, runtime = workshop.config.evaluation, workshop.runtime
    head = extractors.pop(HEAD, None) or load_extractor(HEAD, settings, runtime.cache_dir, workshop.device)
    held_out = len(workshop.val)
    total = looked_at(len(workshop.images.train), held_out, count, settings.extractors)
    progress = Progress(report, "controls", "measuring the controls", total)
    val = {
        extractor.name: _validation_images(workshop, extractor, progress) for extractor in (head, *extractors.values())
    }
    fitted, train, labels = _fit(generator, report), _training_images(workshop, head, progress), _labels(generator)
    return Yardsticks(
        generator, count, seed, head, tuple(extractors.values()), val,
        train=train,
        val_views=_validation_views(workshop, head, progress),
        reconstructions=progress.watch(_reconstructed(generator)).features(head).features,
        gaussian=progress.watch(_of_gaussian(generator, fitted, count, seed)).features(head).features,
        fitted=fitted,
        classifier=LinearClassifier.fitted(train, labels) if labels is not None and distributed.is_main() else None,
    )  # fmt: skip


def _labels(generator: Generator) -> np.ndarray | None:
    """The classes of the training images and, behind them, of their flips."""
    labels = generator.workshop.images.train.labels
    return None if labels is None else np.tile(labels, VIEWS)


def _measure(yardsticks: Yardsticks, sink: Sink, report: Report, labels: Sequence[int]) -> Generated | None:
    """What is found, in the main process."""
    generator, head = yardsticks.generator, yardsticks.head
    settings, device = generator.workshop.config.evaluation, generator.workshop.device
    drawn = _drawn(sink, yardsticks.count, settings.batch_size, device)
    samples: dict[str, ImageFeatures] = {}
    progress = Progress(
        report, "measuring", f"measuring {yardsticks.count} samples", (1 + len(yardsticks.others)) * yardsticks.count
    )
    for extractor in (head, *yardsticks.others):
        samples[extractor.name] = progress.watch(drawn).features(extractor)
    if not distributed.is_main():
        return None
    metrics: dict[str, float] = {}
    for extractor in (head, *yardsticks.others):
        target = Target.of(yardsticks.val[extractor.name])
        metrics |= measure_generated(extractor, samples[extractor.name], target)
    sets = ControlSets(
        train=yardsticks.train,
        val=yardsticks.val[head.name].features,
        reconstructions=yardsticks.reconstructions,
        gaussian=yardsticks.gaussian,
        samples=samples[head.name].features,
        val_views=yardsticks.val_views,
        views=VIEWS,
    )
    controls = measure_controls(sets, yardsticks.seed)
    metrics |= _accuracy(yardsticks, sets.samples, labels)
    beside = _accuracy(yardsticks, sets.gaussian, labels, "_gaussian")
    if len(labels):
        real = generator.workshop.images.val.labels
        beside |= _accuracy(yardsticks, sets.val, real, "_real")
        beside |= _accuracy(yardsticks, sets.reconstructions, real, "_reconstructions")
    return Generated(metrics, controls, yardsticks.fitted.record(), head.generated_metric, beside)


def _accuracy(
    yardsticks: Yardsticks, sample: FeatureSample, classes: Sequence[int] | np.ndarray | None, control: str = ""
) -> dict[str, float]:
    """The share of images of the class that was asked for, or that is theirs; nothing where none is known."""
    if yardsticks.classifier is None or classes is None or not len(classes):
        return {}
    share, name = yardsticks.classifier.accuracy(sample, classes), f"accuracy_{yardsticks.head.name}{control}"
    return {name: share.value, f"{name}_se": share.standard_error, f"{name}{COUNT}": float(share.n)}


def _drawn(sink: Sink, count: int, size: int, device: torch.device) -> ImageSet:
    """Generated images."""

    def part(items: range, size: int) -> Iterator[Tensor]:
        for pixels in sink.batches(size, items):
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)

    return ImageSet(count, size, part)


def _crops(workshop: Workshop, features: Features) -> ImageSet:
    """Real images."""
    return real_images(features, workshop.config.evaluation.batch_size, workshop.device)


def _validation_images(workshop: Workshop, extractor: FeatureExtractor, progress: Progress) -> ImageFeatures:
    """As the trial has measured them already, where that says all that is needed."""
    images, known = progress.watch(_crops(workshop, workshop.val)), workshop.references.get(extractor.metric)
    if known is not None and not extractor.spatial_metric:
        return ImageFeatures(known)
    return images.features(extractor)


def _training_images(workshop: Workshop, extractor: FeatureExtractor, progress: Progress) -> FeatureSample:
    """What the generator has seen: evaluation crops of the training images, and their flips."""
    mirrored = Mirrored(workshop.images.train)
    images = progress.watch(_crops(workshop, mirrored_features(workshop, mirrored)))
    return _kept(workshop, mirrored, images, extractor)


def _validation_views(workshop: Workshop, extractor: FeatureExtractor, progress: Progress) -> FeatureSample:
    """The validation images, and their flips."""
    mirrored, size = Mirrored(workshop.images.val), workshop.config.evaluation.batch_size
    images = progress.watch(cropped_images(mirrored, VIEWS, size, workshop.device))
    return _kept(workshop, mirrored, images, extractor)


def _kept(workshop: Workshop, mirrored: Mirrored, images: ImageSet, extractor: FeatureExtractor) -> FeatureSample:
    """The features of a set and its flips, kept for all trials."""
    cache = Cache(workshop.runtime.cache_dir)
    with cache.naming_unwritable():
        return kept_features(cache, mirrored.fingerprint, extractor, images)


def _reconstructed(generator: Generator) -> ImageSet:
    """The validation images through the tokenizer."""
    workshop, settings = generator.workshop, generator.workshop.config.evaluation

    def part(items: range, size: int) -> Iterator[Tensor]:
        pairs = painted_batches(
            generator.tokenizer, workshop.val, np.array(items, int), size, quantise=settings.quantise
        )  # fmt: skip
        return (painted for painted, _ in pairs)

    return ImageSet(len(workshop.val), settings.batch_size, part)


def _fit(generator: Generator, report: Report) -> PositionGaussian:
    """A Gaussian per position of the latents that the generator was trained on; the main process's, in all alike."""
    workshop = generator.workshop
    latents = open_latents(workshop, generator.tokenizer, report)
    count, size = len(latents.array), workshop.config.evaluation.batch_size
    fitted = None
    if distributed.is_main():
        batches = in_parts(range(count), size)
        fitted = fit_gaussian((as_tokens(latents.take(items)).to(workshop.device) for items in batches), count)
    fitted = distributed.from_main(None if fitted is None else fitted.to(torch.device("cpu")))
    assert fitted is not None
    return fitted.to(workshop.device)


def _of_gaussian(generator: Generator, gaussian: PositionGaussian, count: int, seed: int) -> ImageSet:
    """So many of its latents, decoded."""
    settings = generator.workshop.config.evaluation

    @torch.no_grad()
    def part(items: range, size: int) -> Iterator[Tensor]:
        for batch in in_parts(items, size):
            latents = gaussian.draw(batch.tolist(), seed)
            yield to_uint8(generator.tokenizer.decode(latents), settings.quantise)

    return ImageSet(count, settings.batch_size, part)

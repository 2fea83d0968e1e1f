"""What is measured of generated images in one network's features, against real images or a file of references."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import Gaussian, frechet_distance, frechet_influence
from drorae.metrics.inception import inception_score
from drorae.metrics.neighbours import coverage
from drorae.metrics.references import Reference
from drorae.metrics.registry import COUNT
from drorae.metrics.rows import blocks
from drorae.metrics.samples import FeatureSample

REFERENCES = "generated_references"
"""Name, beside the metrics, of the number of real images behind the distances; absent where a file does not say."""


@dataclass(frozen=True)
class ImageFeatures:
    """A set of images in one network's features."""

    features: FeatureSample
    places: FeatureSample | None = None
    """Those that keep their places, of a network with a `spatial_metric`."""

    def batches(self, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yields both again, so many images at a time."""
        places = itertools.repeat(None) if self.places is None else self.places.batches(sizes)
        return zip(self.features.batches(sizes), places, strict=False)

    def joined(self, features: Tensor, places: Tensor | None) -> ImageFeatures:
        """Takes in more images; returns them all."""
        self.features.update(features)
        if places is None:
            return self
        # Of a process that had no images so far.
        kept = self.places or FeatureSample(places.shape[1])
        kept.update(places)
        return ImageFeatures(self.features, kept)


@dataclass(frozen=True)
class Target:
    """What generated images are measured against."""

    moments: Gaussian
    """Of real images' features."""
    features: FeatureSample | None = None
    """The features themselves, for precision and recall; None: neither is measured."""
    places: Gaussian | None = None
    """Of their features that keep their places; None: no sFID."""
    n: int = 0
    """Number of images behind `moments`; 0: unknown."""

    @classmethod
    def of(cls, real: ImageFeatures) -> Target:
        """Real images, validation images as a rule."""
        places = real.places.statistics if real.places is not None else None
        return cls(real.features.statistics, real.features, places, real.features.statistics.n)

    @classmethod
    def from_file(cls, reference: Reference, images: FeatureSample | None = None) -> Target:
        """A file's statistics, and its images' features where it has any (`reference_sample`).

        ADM's VIRTUAL files hold statistics of all training images, and 10,000 of them as images.
        """
        return cls(reference.moments, images, reference.places, reference.origin.n)


@torch.no_grad()
def image_features(batches: Iterable[Tensor], extractor: FeatureExtractor) -> ImageFeatures:
    """Reads images, uint8 [B, 3, H, W] on the extractor's device, streamed: features wait in temporary files."""
    features, places = FeatureSample(extractor.dim), None
    for images in batches:
        if not extractor.spatial_metric:
            features.update(extractor(images))
            continue
        pooled, kept = extractor.with_places(images)
        places = places or FeatureSample(kept.shape[1])
        features.update(pooled)
        places.update(kept)
    return ImageFeatures(features, places)


def measure_generated(extractor: FeatureExtractor, generated: ImageFeatures, target: Target) -> dict[str, float]:
    """Measures generated images in one network's features.

    Args:
        extractor: the network.
        generated: the samples.
        target: what they are to look like.

    Returns:
        Under the extractor's names: the Frechet distance; the Inception Score, where it knows classes; precision and
        recall, where the target has features; sFID, where both have places. Each with `..._images`, the number of
        generated images, by which laws refuse to mix them, and except sFID with `..._se`: the standard error over
        other samples, the target given, of recall over other real images. `generated_references`: the number of real
        images.

    Raises:
        ValueError: fewer images than a metric takes.
    """
    sample = generated.features
    influence = frechet_influence(sample.statistics, sample.features, target.moments)
    found = {extractor.generated_metric: (influence.distance, influence.standard_error)}
    if extractor.score_metric:
        score = inception_score(_logits(extractor, sample))
        found[extractor.score_metric] = score.mean, score.standard_error
    if target.features is not None:
        covered = coverage(sample.features, target.features.features)
        found[extractor.precision_metric] = covered.precision, covered.precision_error
        found[extractor.recall_metric] = covered.recall, covered.recall_error
    metrics = {REFERENCES: float(target.n)} if target.n else {}
    for name, (value, error) in found.items():
        metrics |= {name: value, f"{name}_se": error, f"{name}{COUNT}": float(sample.statistics.n)}
    if generated.places is not None and target.places is not None:
        name, places = extractor.spatial_metric, generated.places.statistics
        metrics |= {name: frechet_distance(places, target.places), f"{name}{COUNT}": float(places.n)}
    return metrics


def _logits(extractor: FeatureExtractor, sample: FeatureSample) -> np.ndarray:
    """All logits, float32 [n, K]: 0.2 GB for 50,000 images of 1008 classes."""
    rows = sample.features
    parts = (extractor.logits(torch.from_numpy(rows[part]).to(extractor.device)) for part in blocks(len(rows)))
    return np.concatenate([part.float().cpu().numpy() for part in parts])

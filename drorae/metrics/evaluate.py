"""All metrics of a set of reconstructions in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.data.pixels import as_images
from drorae.losses.lpips import Lpips
from drorae.metrics import image
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import Gaussian, frechet_distance, frechet_influence, frechet_replicates
from drorae.metrics.kernel import kernel_distance
from drorae.metrics.registry import INFLUENCE
from drorae.metrics.samples import FeatureSample

PER_IMAGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": image.psnr, "ssim": image.ssim, "l1": image.l1}
"""What is measured of every image: uint8 [B, 3, H, W] twice, the reconstruction first -> [B]."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured on N images."""

    metrics: dict[str, float]
    """Means of psnr (dB), ssim, l1 and where asked for lpips_...; per extractor the Frechet distance under its metric's
    name, its standard error (..._se) and the kernel distance; eval_images = N, the number of images of all of them."""
    per_image: dict[str, np.ndarray]
    """The means' values of every image [N], in the order of the images, and each Frechet distance's ..._influence:
    the standard deviation of two runs' difference, divided by sqrt(N), is the standard error of their distances'
    difference."""


class Batch(NamedTuple):
    """What was measured of B images."""

    values: dict[str, Tensor]
    """By name [B]: those of `PER_IMAGE`, and lpips_... where it is measured."""
    reconstructed: dict[str, Tensor]
    """Features of the reconstructions [B, dim], by metric."""
    originals: dict[str, Tensor]
    """Those of the originals that no reference holds."""


class Measured:
    """What was measured of a run of images: values in memory, features in temporary files."""

    def __init__(self, extractors: Sequence[FeatureExtractor], references: Mapping[str, FeatureSample]) -> None:
        """Holds nothing yet; for the arguments, see `evaluate`."""
        self.extractors, self._sizes = extractors, list[int]()
        self._references = references
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._reconstructed = {item.metric: FeatureSample(item.dim) for item in extractors}
        missing = [item for item in extractors if item.metric not in references]
        self._originals = {item.metric: FeatureSample(item.dim) for item in missing}

    def add(self, batch: Batch) -> None:
        """Takes in what was measured of the next images."""
        self._sizes.append(len(next(iter(batch.values.values()))))
        for name, values in batch.values.items():
            self._values[name].append(values)
        for kept, features in ((self._reconstructed, batch.reconstructed), (self._originals, batch.originals)):
            for metric, rows in features.items():
                kept[metric].update(rows)

    def batches(self) -> Iterator[Batch]:
        """Yields again what was taken in, for another to `add`: with the same batches, sums are the same to the bit."""
        streams = [
            {metric: sample.batches(self._sizes) for metric, sample in samples.items()}
            for samples in (self._reconstructed, self._originals)
        ]
        for index in range(len(self._sizes)):
            values = {name: parts[index] for name, parts in self._values.items()}
            reconstructed, originals = ({metric: next(rows) for metric, rows in each.items()} for each in streams)
            yield Batch(values, reconstructed, originals)

    def evaluation(self, external: Mapping[str, Gaussian] | None = None, replicates: int = 0) -> Evaluation:
        """Returns means and distances of all that was taken in; for the arguments and errors, see `evaluate`."""
        if not self._values:
            raise ValueError("no images to evaluate")
        per_image = {name: torch.cat(parts).numpy() for name, parts in self._values.items()}
        metrics = {name: float(array.mean()) for name, array in per_image.items()}
        originals = {**self._references, **self._originals}
        for extractor in self.extractors:
            name, sample = extractor.metric, self._reconstructed[extractor.metric]
            found, per_image[f"{name}{INFLUENCE}"] = _distances(extractor, sample, originals[name], replicates)
            metrics |= found
            if external and name in external:
                metrics[f"{name}_reference"] = frechet_distance(sample.statistics, external[name])
        metrics["eval_images"] = float(len(per_image["psnr"]))
        return Evaluation(metrics, per_image)


@torch.no_grad()
def measure(
    batches: Iterable[tuple[Tensor, Tensor]],
    extractors: Sequence[FeatureExtractor],
    references: Mapping[str, FeatureSample] | None = None,
    lpips: Lpips | None = None,
) -> Measured:
    """Measures each of some pairs by itself; for arguments and errors, see `evaluate`. There may be no pairs."""
    measured = Measured(extractors, references := references or {})
    for reconstruction, original in batches:
        if reconstruction.shape != original.shape or {reconstruction.dtype, original.dtype} != {torch.uint8}:
            raise ValueError(f"pairs differ: {list(reconstruction.shape)} and {list(original.shape)}, expected uint8")
        values = {name: each(reconstruction, original).cpu() for name, each in PER_IMAGE.items()}
        if lpips is not None:
            values[f"lpips_{lpips.name}"] = lpips(as_images(reconstruction), as_images(original)).double().cpu()
        missing = [item for item in extractors if item.metric not in references]
        measured.add(
            Batch(
                values,
                {extractor.metric: extractor(reconstruction) for extractor in extractors},
                {extractor.metric: extractor(original) for extractor in missing},
            )
        )
    return measured


def evaluate(
    batches: Iterable[tuple[Tensor, Tensor]],
    extractors: Sequence[FeatureExtractor],
    references: Mapping[str, FeatureSample] | None = None,
    *,
    lpips: Lpips | None = None,
    external: Mapping[str, Gaussian] | None = None,
    replicates: int = 0,
) -> Evaluation:
    """Measures (reconstruction, original) batches, both uint8 [B, 3, H, W] and cropped identically.

    Args:
        batches: pairs, streamed. Kept are per-image values and statistics in memory, features in temporary files.
        extractors: a Frechet and a kernel distance each.
        references: the originals' features by metric name, in the order of the batches; those missing are computed
            here. Default: none.
        lpips: measures lpips_vgg or lpips_alex; None, the default: neither.
        external: statistics from elsewhere by metric name: a second distance each, named ..._reference. Default: none.
        replicates: bootstrap replicates drawn for a second standard error each, named ..._se_bootstrap. Default: 0.

    Raises:
        ValueError: fewer than two images, pairs of different shapes, or references of another number of images.
    """
    return measure(batches, extractors, references, lpips).evaluation(external, replicates)


def _distances(
    extractor: FeatureExtractor, reconstructed: FeatureSample, original: FeatureSample, replicates: int
) -> tuple[dict[str, float], np.ndarray]:
    """The distances in one network's features, by name, and every image's influence on the Frechet distance [N]."""
    influence = frechet_influence(
        reconstructed.statistics, reconstructed.features, original.statistics, original.features
    )
    metrics = {extractor.metric: influence.distance, f"{extractor.metric}_se": influence.standard_error}
    metrics[extractor.kernel_metric] = kernel_distance(reconstructed.features, original.features, paired=True)
    if replicates:
        n = reconstructed.statistics.n
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), replicates)
        drawn = frechet_replicates(reconstructed.features, original.features, counts)
        metrics[f"{extractor.metric}_se_bootstrap"] = float(drawn.std(ddof=1))
    return metrics, influence.images

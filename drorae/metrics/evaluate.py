"""All metrics of a set of reconstructions in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drorae.data.pixels import as_images
from drorae.losses.lpips import Lpips
from drorae.metrics import image
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import Gaussian, frechet_distance, frechet_influence, frechet_replicates
from drorae.metrics.kernel import kernel_distance
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


@torch.no_grad()
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
    references = references or {}
    originals = {item.metric: references.get(item.metric) or FeatureSample(item.dim) for item in extractors}
    reconstructed = {item.metric: FeatureSample(item.dim) for item in extractors}
    values: dict[str, list[Tensor]] = defaultdict(list)
    for reconstruction, original in batches:
        if reconstruction.shape != original.shape or {reconstruction.dtype, original.dtype} != {torch.uint8}:
            raise ValueError(f"pairs differ: {list(reconstruction.shape)} and {list(original.shape)}, expected uint8")
        for name, measure in PER_IMAGE.items():
            values[name].append(measure(reconstruction, original).cpu())
        if lpips is not None:
            distance = lpips(as_images(reconstruction), as_images(original))
            values[f"lpips_{lpips.name}"].append(distance.double().cpu())
        for extractor in extractors:
            reconstructed[extractor.metric].update(extractor(reconstruction))
            if extractor.metric not in references:
                originals[extractor.metric].update(extractor(original))
    if not values:
        raise ValueError("no images to evaluate")
    per_image = {name: torch.cat(parts).numpy() for name, parts in values.items()}
    metrics = {name: float(array.mean()) for name, array in per_image.items()}
    for extractor in extractors:
        name, sample = extractor.metric, reconstructed[extractor.metric]
        found, per_image[f"{name}_influence"] = _distances(extractor, sample, originals[name], replicates)
        metrics |= found
        if external and name in external:
            metrics[f"{name}_reference"] = frechet_distance(sample.statistics, external[name])
    metrics["eval_images"] = float(len(per_image["psnr"]))
    return Evaluation(metrics, per_image)


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

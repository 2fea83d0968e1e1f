"""All metrics of a set of reconstructions in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drorae.data.features import as_images
from drorae.losses.lpips import Lpips
from drorae.metrics import image
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import Gaussian, frechet_distance, frechet_influence, frechet_replicates
from drorae.metrics.kernel import kernel_distance
from drorae.metrics.samples import FeatureSample


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


def to_uint8(images: Tensor, quantise: Literal["round", "truncate"] = "round") -> Tensor:
    """float images, nominally in [0, 1] -> uint8: clamped, times 255, rounded half to even or truncated."""
    scaled = images.float().clamp(0, 1) * 255
    return (scaled.round() if quantise == "round" else scaled).to(torch.uint8)


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
            here.
        lpips: measures lpips_vgg or lpips_alex.
        external: statistics from elsewhere by metric name: a second distance each, named ..._reference.
        replicates: bootstrap replicates drawn for a second standard error each, named ..._se_bootstrap.

    Raises:
        ValueError: fewer than two images, pairs of different shapes, or references of another number of images.
    """
    originals = dict(references or {})
    computed = [extractor for extractor in extractors if extractor.metric not in originals]
    originals |= {extractor.metric: FeatureSample(extractor.dim) for extractor in computed}
    painted = {extractor.metric: FeatureSample(extractor.dim) for extractor in extractors}
    values: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "l1": []}
    for reconstruction, original in batches:
        if reconstruction.shape != original.shape or {reconstruction.dtype, original.dtype} != {torch.uint8}:
            raise ValueError(f"pairs differ: {list(reconstruction.shape)} and {list(original.shape)}, expected uint8")
        values["psnr"].append(image.psnr(reconstruction, original).cpu())
        values["ssim"].append(image.ssim(reconstruction, original).cpu())
        values["l1"].append(image.l1(reconstruction, original).cpu())
        if lpips is not None:
            distance = lpips(as_images(reconstruction), as_images(original))
            values.setdefault(f"lpips_{lpips.name}", []).append(distance.double().cpu())
        for extractor in extractors:
            painted[extractor.metric].update(extractor(reconstruction))
            if extractor in computed:
                originals[extractor.metric].update(extractor(original))
    if not values["psnr"]:
        raise ValueError("no images to evaluate")
    per_image = {name: torch.cat(parts).numpy() for name, parts in values.items()}
    metrics = {name: float(array.mean()) for name, array in per_image.items()}
    for extractor in extractors:
        name, sample, truth = extractor.metric, painted[extractor.metric], originals[extractor.metric]
        influence = frechet_influence(sample.statistics, sample.features, truth.statistics, truth.features)
        metrics[name], metrics[f"{name}_se"] = influence.distance, influence.standard_error
        per_image[f"{name}_influence"] = influence.images
        metrics[extractor.kernel_metric] = kernel_distance(sample.features, truth.features, paired=True)
        if replicates:
            n = sample.statistics.n
            counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), replicates)
            drawn = frechet_replicates(sample.features, truth.features, counts)
            metrics[f"{name}_se_bootstrap"] = float(drawn.std(ddof=1))
        if external and name in external:
            metrics[f"{name}_reference"] = frechet_distance(sample.statistics, external[name])
    metrics["eval_images"] = float(len(per_image["psnr"]))
    return Evaluation(metrics, per_image)

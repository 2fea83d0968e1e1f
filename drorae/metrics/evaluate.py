"""All metrics of a set of reconstructions in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drorae.metrics import image
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import FeatureStatistics, frechet_distance


@dataclass(frozen=True)
class Evaluation:
    """What was measured on N images."""

    metrics: dict[str, float]
    """Means of psnr (dB), ssim and l1, a Frechet distance per extractor under its metric's name, eval_images = N."""
    per_image: dict[str, np.ndarray]
    """psnr, ssim and l1 of every image [N], in the order of the images."""


def to_uint8(images: Tensor) -> Tensor:
    """float images, nominally in [0, 1] -> uint8: clamped, times 255, rounded half to even."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def evaluate(
    batches: Iterable[tuple[Tensor, Tensor]],
    extractors: Sequence[FeatureExtractor],
    references: Mapping[str, FeatureStatistics] | None = None,
) -> Evaluation:
    """Measures (reconstruction, original) batches, both uint8 [B, 3, H, W] and cropped identically.

    Args:
        batches: pairs, streamed; nothing is kept but statistics and per-image values.
        extractors: one Frechet distance each.
        references: statistics of the originals' features by metric name; those missing are computed here.

    Raises:
        ValueError: no images, or pairs of different shapes.
    """
    known = references or {}
    painted = {extractor.metric: FeatureStatistics(extractor.dim) for extractor in extractors}
    originals = {e.metric: FeatureStatistics(e.dim) for e in extractors if e.metric not in known}
    values: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "l1": []}
    for reconstruction, original in batches:
        if reconstruction.shape != original.shape or {reconstruction.dtype, original.dtype} != {torch.uint8}:
            raise ValueError(f"pairs differ: {list(reconstruction.shape)} and {list(original.shape)}, expected uint8")
        values["psnr"].append(image.psnr(reconstruction, original).cpu())
        values["ssim"].append(image.ssim(reconstruction, original).cpu())
        values["l1"].append(image.l1(reconstruction, original).cpu())
        for extractor in extractors:
            painted[extractor.metric].update(extractor(reconstruction))
            if extractor.metric in originals:
                originals[extractor.metric].update(extractor(original))
    if not values["psnr"]:
        raise ValueError("no images to evaluate")
    per_image = {name: torch.cat(parts).numpy() for name, parts in values.items()}
    metrics = {name: float(array.mean()) for name, array in per_image.items()}
    for metric, statistics in painted.items():
        metrics[metric] = frechet_distance(statistics, known[metric] if metric in known else originals[metric])
    metrics["eval_images"] = float(len(per_image["psnr"]))
    return Evaluation(metrics, per_image)

"""The Inception Score, in whatever classifier: how sure it is of each image, and how it spreads over all of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from drorae.metrics.rows import Rows

SPLITS = 10
"""Parts whose scores are averaged (Salimans et al. 2016, arXiv 1606.03498, and every tool since)."""
SEED = 2020
"""Of the order in which images go to the parts; torch-fidelity's (its defaults.py)."""


class InceptionScore(NamedTuple):
    """The score of n images."""

    mean: float
    """Over the parts: between 1 and the number of classes."""
    deviation: float
    """Over the parts, the population's, as it is printed behind the score."""
    n: int
    """Number of images."""
    splits: int
    """Number of parts."""

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the parts, which share no image; not finite for a single part."""
        return self.deviation / math.sqrt(self.splits - 1) if self.splits > 1 else math.inf


def inception_score(logits: np.ndarray | Rows, splits: int = SPLITS, seed: int | None = SEED) -> InceptionScore:
    """Returns exp(mean over images of KL(p(y|x) || p(y))), averaged over parts (arXiv 1606.03498, section 4).

    p(y) is the mean of a part's p(y|x). Images are shuffled before they are split, as torch-fidelity does: samples that
    lie class by class would otherwise make parts of few classes each. One part at a time is in memory. It falls with
    the number of images in a part, so compare only values of equal n.

    Args:
        logits: [n, K], before the softmax.
        splits: number of parts.
        seed: of the order; None: as they come, which is ADM's evaluator with parts of 5000.

    Raises:
        ValueError: fewer images than parts, or no parts.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(f"an Inception Score of {n} images in {splits} parts; expected 1 or more images in each")
    order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
    scores = []
    for part in range(splits):
        # In ascending order, so that a file is read from front to back: a mean does not mind.
        rows = np.asarray(logits[np.sort(order[part * n // splits : (part + 1) * n // splits])], np.float64)
        rows -= rows.max(1, keepdims=True)
        log = rows - np.log(np.exp(rows).sum(1, keepdims=True))
        probability = np.exp(log)
        overall = probability.mean(0)
        # Where p(y) underflows so does every p(y|x), which adds nothing.
        marginal = np.log(overall, out=np.zeros_like(overall), where=overall > 0)
        scores.append(math.exp((probability * (log - marginal)).sum(1).mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), n, splits)

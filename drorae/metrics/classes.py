"""Whether images are of the class that was asked for, as a linear classifier of real images' features sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drorae.metrics.rows import blocks
from drorae.metrics.samples import FeatureSample

RIDGE = 0.01
"""Weight of the squared weights beside the mean squared error, in units of a feature's variance: own choice."""


class Share(NamedTuple):
    """The share of images that a classifier puts into their class."""

    value: float
    standard_error: float
    """Binomial: over other images of the same classes."""
    n: int
    """Number of images."""


@dataclass(frozen=True)
class LinearClassifier:
    """Ridge regression on one column a class, 1 for it and -1 for the others, as scikit-learn's RidgeClassifier has it.

    Features are centred and divided by their deviation over the training images first.
    """

    mean: np.ndarray
    """[dim]."""
    weights: np.ndarray
    """[dim, classes], of centred features."""
    bias: np.ndarray
    """[classes]."""

    @classmethod
    def fitted(cls, sample: FeatureSample, labels: Sequence[int] | np.ndarray) -> LinearClassifier:
        """Fits it in closed form, in float64, in one pass over the features.

        Args:
            sample: features of the training images.
            labels: the class of each, from 0.
        """
        labels, statistics = np.asarray(labels), sample.statistics
        n, mean = statistics.n, statistics.mean.numpy()
        cov = statistics.cov.numpy() * ((n - 1) / n)
        deviation = np.sqrt(np.diag(cov))
        # What is the same in all images tells nothing.
        scale = np.where(deviation > 0, deviation, 1.0)
        classes = int(labels.max()) + 1
        sums = np.zeros((len(mean), classes))
        for part in blocks(n):
            sums += (sample.features[part] - mean).T @ np.eye(classes)[labels[part]]
        system = cov / np.outer(scale, scale) + RIDGE * np.eye(len(mean))
        # Centred features sum to zero, so that the other classes' -1 counts as this one's 1 again.
        solved = np.linalg.solve(system, 2 * sums / n / scale[:, None])
        return cls(mean, solved / scale[:, None], 2 * np.bincount(labels, minlength=classes) / n - 1)

    def accuracy(self, sample: FeatureSample, labels: Sequence[int] | np.ndarray) -> Share:
        """Returns the share of images that it puts into their class, given by `labels`."""
        labels, rows = np.asarray(labels), sample.features
        hits = sum(
            int((((rows[part] - self.mean) @ self.weights + self.bias).argmax(1) == labels[part]).sum())
            for part in blocks(len(rows))
        )
        share = hits / len(rows)
        return Share(share, float(np.sqrt(share * (1 - share) / len(rows))), len(rows))

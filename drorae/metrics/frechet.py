"""The Frechet distance between two sets of features, streamed in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class FeatureStatistics:
    """Number, mean and covariance of feature vectors of width `dim`, in float64, over any number of batches.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), so that nothing large cancels.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Takes in features [B, dim], any device and type.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"expected features [B, {self.dim}], got {list(features.shape)}")
        values = features.detach().double().cpu()
        if not torch.isfinite(values).all():
            raise ValueError("features hold values that are not finite")
        mean = values.mean(0)
        centred = values - mean
        self._combine(len(values), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Takes in all that another instance has seen."""
        self._combine(other.n, other.mean, other._scatter)

    def _combine(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if n == 0:
            return
        total = self.n + n
        delta = mean - self.mean
        self._scatter += scatter + torch.outer(delta, delta) * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance [dim, dim].

        Raises:
            ValueError: fewer than two feature vectors so far.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, got {self.n}")
        return self._scatter / (self.n - 1)

    def save(self, path: str | Path) -> None:
        """Writes n, mean and cov as .npz, atomically."""
        path = Path(path)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        with temporary.open("wb") as stream:
            np.savez(stream, n=self.n, mean=self.mean.numpy(), cov=self.cov.numpy())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            statistics = cls(len(arrays["mean"]))
            statistics.n = int(arrays["n"])
            statistics.mean = torch.from_numpy(arrays["mean"])
            statistics._scatter = torch.from_numpy(arrays["cov"]) * (statistics.n - 1)
        return statistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, arXiv 1706.08500, Eq. 6).

    The last trace is the sum of the singular values of R_a^T R_b, with S = R R^T from the symmetric
    eigendecomposition. No offset is needed where a covariance is singular (fewer images than features): R then has
    as many columns as the covariance has rank. Biased upwards for finite n, the more so the fewer images there are
    per feature: compare only values of equal n.

    Raises:
        ValueError: features of different widths, or fewer than two of them.
    """
    if a.dim != b.dim:
        raise ValueError(f"features of different widths: {a.dim} and {b.dim}")
    cov_a, cov_b = a.cov, b.cov

    def root(cov: Tensor) -> Tensor:
        try:
            values, vectors = torch.linalg.eigh(cov)
        except torch.linalg.LinAlgError:
            # LAPACK's divide and conquer can fail on hundreds of equal (zero) eigenvalues; of a positive matrix the
            # singular value decomposition is the same thing.
            vectors, values, _ = torch.linalg.svd(cov)
            values, vectors = values.flip(0), vectors.flip(1)
        # What lies below is rounding of zeros, and a matrix full of it makes the SVD many times slower.
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        return vectors[:, kept] * values[kept].sqrt()

    cross = torch.linalg.svdvals(root(cov_a).T @ root(cov_b)).sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(distance), 0.0)

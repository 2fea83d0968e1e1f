"""The kernel distance between two sets of features: KID, where they are Inception's."""

from __future__ import annotations

import numpy as np

from drorae.metrics.rows import Rows

PART = 2500
"""Images compared with each other at once; more are split into parts of at most this size."""


def kernel_distance(a: np.ndarray | Rows, b: np.ndarray | Rows, paired: bool, seed: int = 0) -> float:
    """Estimates the squared maximum mean discrepancy without bias, with the kernel (x.y / dim + 1)^3.

    Binkowski et al. 2018 (arXiv 1801.01401, section 4). It estimates the distance between the distributions, so free
    of the Frechet distance's bias for few images; it may be slightly negative.

    paired=False leaves out k(x, x) alone, as published tools do, and is unbiased for independent sets (Gretton et
    al. 2012, JMLR 13, Eq. 3). A reconstruction depends on its original: k(x_i, y_i) is larger than k(x_i, y_j), which
    makes that estimate too small by 2/n of the difference, about as much as good reconstructions measure at all.
    paired=True leaves out k(x_i, y_i) too (the same paper's Eq. 4), which is unbiased for pairs and exactly zero for
    perfect reconstructions.

    More than `PART` images are split at random into equal parts of at most that size, and the parts' values averaged,
    which is as unbiased and keeps memory at two parts' features and one part's kernel, about 200 MB.

    Args:
        a: features [n, dim], n >= 2.
        b: features [n, dim]; with paired=True rows at the same place are one image's.
        paired: whether a row of a depends on the row of b at its place.
        seed: chooses the parts; 0 by default.

    Raises:
        ValueError: sets of different shape, or fewer than two images.
    """
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"expected two sets of equal shape and at least 2 images, got {a.shape} and {b.shape}")
    order = np.random.default_rng(seed).permutation(len(a)) if len(a) > PART else np.arange(len(a))
    parts = np.array_split(order, -(-len(a) // PART))
    # In ascending order, so that a file of features is read from front to back.
    return float(np.mean([_part(a[np.sort(part)], b[np.sort(part)], paired) for part in parts]))


def _part(a: np.ndarray, b: np.ndarray, paired: bool) -> float:
    n, dim = a.shape
    a, b = a.astype(np.float64), b.astype(np.float64)

    def total(x: np.ndarray, y: np.ndarray, diagonal: bool) -> float:
        kernel = (x @ y.T / dim + 1) ** 3
        return float(kernel.sum() if diagonal else kernel.sum() - np.trace(kernel))

    within = (total(a, a, diagonal=False) + total(b, b, diagonal=False)) / (n * (n - 1))
    pairs = n * (n - 1) if paired else n * n
    return float(within - 2 * total(a, b, diagonal=not paired) / pairs)

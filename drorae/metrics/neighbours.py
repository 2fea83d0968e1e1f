"""Nearest neighbours in features: improved precision and recall, and distances to the nearest training images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.metrics.rows import Rows, blocks

NEIGHBOURS = 3
"""k of arXiv 1904.06991 (section 3), and of ADM's evaluator."""
PAIRS = 1 << 13
"""Pairs whose distance is taken exactly at once: 0.4 GB at 2048 features, less in proportion."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""Of |x|^2 + |y|^2, times the root of the number of features: what a squared distance out of a matrix product may be
off by."""

Features = np.ndarray | Rows


class Coverage(NamedTuple):
    """Precision and recall, and of how many images."""

    precision: float
    """Share of the samples that lie within the reference's manifold."""
    recall: float
    """Share of the reference that lies within the samples' manifold."""
    samples: int
    references: int

    @property
    def precision_error(self) -> float:
        """The standard error of the precision over other samples, the reference given."""
        return _binomial(self.precision, self.samples)

    @property
    def recall_error(self) -> float:
        """The standard error of the recall over other references, the samples given."""
        return _binomial(self.recall, self.references)


def _binomial(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / (n - 1))


def coverage(samples: Features, reference: Features, k: int = NEIGHBOURS) -> Coverage:
    """Returns improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, Eqs. 1 and 2).

    A set's manifold is the union of balls about its points, each as wide as the distance to the k-th nearest other
    point of the set, border included. Distances are Euclidean, in float64, `rows.BLOCK` of one set against as many of
    the other at a time (under 1 GB at 2048 features), so any number of images fits. Recall falls with fewer
    samples: compare only values of equal numbers; the paper takes 50,000 of each, ADM's evaluator 50,000 against
    10,000.

    Args:
        samples: features [n, dim] of generated images.
        reference: features [m, dim] of real ones.
        k: neighbours.

    Raises:
        ValueError: features of different widths, or no more than k images in either set.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(f"features of different widths: {samples.shape[1]} and {reference.shape[1]}")
    if min(len(samples), len(reference)) <= k:
        raise ValueError(
            f"precision and recall take more than {k} images of each, got {len(samples)} and {len(reference)}"
        )
    return Coverage(
        float(_inside(samples, reference, k).mean()),
        float(_inside(reference, samples, k).mean()),
        len(samples),
        len(reference),
    )


class Nearest(NamedTuple):
    """For each of n images, which of others are nearest to it."""

    distances: np.ndarray
    """Euclidean, to the nearest and to the next, float64 [n, 2]; that of an exact copy is 0."""
    image: np.ndarray
    """Number of the nearest, int64 [n]."""


def two_nearest(features: Features, among: Features, views: int = 1) -> Nearest:
    """Returns the two nearest of other images to each image.

    Args:
        features: [n, dim].
        among: [views x m, dim] of m other images: all in one view, then all in the next. An image is as near as its
            nearest view.
        views: in how many views they are there.

    Raises:
        ValueError: features of different widths, or fewer than two others.
    """
    others = len(among) // views
    if features.shape[1] != among.shape[1] or others < 2:
        raise ValueError(f"no two nearest of {list(among.shape)} features to {list(features.shape)}")
    found, nearest = [], []
    for part in blocks(len(features)):
        # Among one more than there are views, two are of different images.
        squared, places = _nearest(_read(features, part), among, views + 1)
        images = places % others
        squared[:, 1:].masked_fill_(images[:, 1:] == images[:, :1], math.inf)
        found.append(torch.stack([squared[:, 0], squared[:, 1:].amin(1)], 1).sqrt().numpy())
        nearest.append(images[:, 0].numpy())
    return Nearest(np.concatenate(found), np.concatenate(nearest))


def _inside(points: Features, centres: Features, k: int) -> np.ndarray:
    """Whether each point lies in any ball about the centres, bool [n]."""
    # The first of the neighbours is the centre itself.
    radii = torch.cat([_nearest(_read(centres, part), centres, k + 1)[0][:, -1] for part in blocks(len(centres))])
    found = []
    for part in blocks(len(points)):
        rows = _read(points, part)
        inside = torch.zeros(len(rows), dtype=torch.bool)
        for other in blocks(len(centres)):
            inside |= _within(rows, _read(centres, other), radii[other])
        found.append(inside.numpy())
    return np.concatenate(found)


def _nearest(rows: Tensor, among: Features, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances [B, k] of each row to the k nearest of `among`, the nearest first, and which these are."""
    best, places = torch.empty(len(rows), 0, dtype=torch.float64), torch.empty(len(rows), 0, dtype=torch.long)
    for part in blocks(len(among)):
        others = _read(among, part)
        # |x - y|^2 - |x|^2, of which a row's order is that of its distances.
        order = torch.addmm(others.square().sum(1), rows, others.T, alpha=-2)
        nearest = order.topk(min(k, len(others)), largest=False, sorted=False).indices
        lines = torch.arange(len(rows))[:, None].expand_as(nearest)
        exact = _exact(rows, others, lines.flatten(), nearest.flatten()).view_as(nearest)
        best, places = torch.cat([best, exact], 1), torch.cat([places, nearest + part.start], 1)
        best, kept = best.topk(min(k, best.shape[1]), largest=False, sorted=True)
        places = places.gather(1, kept)
    return best, places


def _within(rows: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Whether each row is at most a squared radius away from any centre, bool [B].

    A matrix product loses the digits of small distances, on which ties hang: pairs that it cannot decide are measured
    one by one.
    """
    norms, others = rows.square().sum(1), centres.square().sum(1)
    error = ROUNDING * math.sqrt(rows.shape[1]) * (norms.max() + others)
    # |x - y|^2 - |y|^2
    squared = torch.addmm(norms[:, None], rows, centres.T, alpha=-2)
    inside = (squared <= radii - others - error).any(1)
    doubtful = ((squared <= radii - others + error) & ~inside[:, None]).nonzero(as_tuple=True)
    close = _exact(rows, centres, *doubtful) <= radii[doubtful[1]]
    inside[doubtful[0][close]] = True
    return inside


def _exact(a: Tensor, b: Tensor, lines: Tensor, columns: Tensor) -> Tensor:
    """Squared distances of chosen pairs by their differences: zero of equal points."""
    parts = zip(torch.split(lines, PAIRS), torch.split(columns, PAIRS), strict=True)
    return torch.cat([(a[i] - b[j]).square().sum(1) for i, j in parts])


def _read(features: Features, part: slice) -> Tensor:
    return torch.from_numpy(np.asarray(features[part], np.float64))

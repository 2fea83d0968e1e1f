"""How far pairs of sizes lie from the convex hull of those measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull, QhullError

INSIDE = 1e-9
"""Distance from the pairs measured that rounding alone may make."""


def distances(measured: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How far pairs `at` (m, 2) lie from the convex hull of those `measured` (n, 2), shape (m,); 0 inside.

    In decades, along the axis on which a pair is farther. Of an axis that spans less than a decade, and of one with
    values that have no logarithm, in what it spans.

    >>> square = np.array([(1.0, 1.0), (1.0, 1e3), (1e3, 1.0), (1e3, 1e3)])
    >>> distances(square, np.array([(10.0, 10.0), (1e4, 1e5)])).round(6).tolist()
    [0.0, 2.0]
    """
    logged = [bool(min(measured[:, k].min(), at[:, k].min()) > 0) for k in range(2)]
    scaled, asked = _logs(measured, logged), _logs(at, logged)
    spans = np.ptp(scaled, axis=0)
    unit = np.where(logged, np.minimum(spans, 1.0), spans)
    scaled, asked = scaled / unit, asked / unit
    corners, hull = _hull(scaled)
    sides = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    if hull is None:
        return _to_sides(sides, asked)
    inside = np.all(asked @ hull.equations[:, :2].T + hull.equations[:, 2] <= INSIDE, axis=1)
    return np.where(inside, 0.0, _to_sides(sides, asked))


def outline(measured: np.ndarray) -> np.ndarray:
    """The convex hull of pairs (n, 2) as a closed polygon (k, 2), whose sides are straight in logarithms."""
    logged = [bool(measured[:, k].min() > 0) for k in range(2)]
    corners, _ = _hull(_logs(measured, logged))
    share = np.linspace(0, 1, 41)[:, None]
    sides = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    line = np.concatenate([first + share * (last - first) for first, last in sides])
    return np.column_stack([10 ** line[:, k] if logged[k] else line[:, k] for k in range(2)])


def _logs(pairs: np.ndarray, logged: Sequence[bool]) -> np.ndarray:
    return np.column_stack([np.log10(pairs[:, k]) if logged[k] else pairs[:, k] for k in range(2)]).astype(float)


def _hull(points: np.ndarray) -> tuple[np.ndarray, ConvexHull | None]:
    """The corners in order, and the hull; the two ends and None where all points (n, 2) are on one line."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        along = points[:, 0] if np.ptp(points[:, 0]) else points[:, 1]
        return points[[along.argmin(), along.argmax()]], None
    return points[hull.vertices], hull


def _to_sides(sides: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance in the maximum norm of points (m, 2) from the nearest of the sides (s, 2 ends, 2), shape (m,)."""
    nearest = np.full(len(points), np.inf)
    for first, last in sides:
        gap, way = points - first, last - first
        # |gap - t way| is piecewise linear in t: least where an axis is reached, where both are as far, or at an end.
        kinks = ((gap[:, 0], way[0]), (gap[:, 1], way[1]), (gap.sum(axis=1), way.sum()), (gap @ [1, -1], way @ [1, -1]))
        shares = [np.clip(reach / rate, 0, 1) for reach, rate in kinks if rate]
        for share in (*shares, np.zeros(len(points)), np.ones(len(points))):
            nearest = np.minimum(nearest, np.abs(gap - share[:, None] * way).max(axis=1))
    return nearest

"""Many sizes in few rows: a least-squares problem whose columns are smooth in ln x, condensed without loss.

A column phi(x; t) is a polynomial of degree 23 within half a decade, to some 1e-12 of itself. Within each such cell
the points' columns are then B v with v its values at 24 Chebyshev nodes, and with B = Q R

    |y - B v|^2 = |Q'y - R v|^2 + |y - Q Q'y|^2,

in which the last term is the same for every t. So a hundred or two rows stand for any number of points.
"""

from __future__ import annotations

import numpy as np

NODES = 24
WIDTH = float(np.log(10) / 2)
"""Of a cell in ln x, at most. The nearest singularity of any form, a break's, is pi times its width of 0.3 away."""

WORTH = 2
"""Points are condensed where there are more than so many for each row."""


class Cells:
    """Points (n,) above 0 in cells of ln x, each with its nodes.

    Attributes:
        at: sizes at the nodes, shape (cells NODES, 1).
    """

    def __init__(self, x: np.ndarray) -> None:
        z = np.log(x)
        low, span = float(z.min()), float(np.ptp(z))
        count = max(int(np.ceil(span / WIDTH)), 1)
        width = span / count or WIDTH
        numbers = np.minimum(((z - low) / width).astype(int), count - 1)
        filled, numbers = np.unique(numbers, return_inverse=True)
        self.members = [np.flatnonzero(numbers == k) for k in range(len(filled))]
        middles = low + (filled + 0.5) * width
        angles = (np.arange(NODES) + 0.5) * np.pi / NODES
        nodes = np.cos(angles)
        self.at = np.exp(middles[:, None] + nodes * width / 2).reshape(-1, 1)
        self.n, self.weights = len(x), (-1.0) ** np.arange(NODES) * np.sin(angles)
        self.bases = [
            self._interpolation((z[chosen] - middle) * 2 / width, nodes)
            for chosen, middle in zip(self.members, middles, strict=True)
        ]

    def _interpolation(self, u: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """(points, NODES): the barycentric formula (Berrut and Trefethen 2004, equation 4.2)."""
        away = u[:, None] - nodes
        hit = away == 0
        terms = self.weights / np.where(hit, 1, away)
        terms = np.where(hit.any(axis=1)[:, None], hit, terms)
        return np.asarray(terms / terms.sum(axis=1, keepdims=True))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Returns functions at the points, (..., n), of their values at the nodes (..., cells NODES)."""
        found = np.empty((*values.shape[:-1], self.n))
        for k, (chosen, basis) in enumerate(zip(self.members, self.bases, strict=True)):
            found[..., chosen] = values[..., k * NODES : (k + 1) * NODES] @ basis.T
        return found


class Condensed:
    """A least-squares problem of n weighted points in the rows of its cells; root (n,): square roots of the weights."""

    def __init__(self, cells: Cells, root: np.ndarray) -> None:
        self.cells, self.root = cells, root
        parts = [
            np.linalg.qr(basis * root[chosen, None]) for chosen, basis in zip(cells.members, cells.bases, strict=True)
        ]
        self.q, self.r = [part[0] for part in parts], [part[1] for part in parts]

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Returns weighted columns in rows, (..., rows), of their values at the nodes (..., cells NODES)."""
        parts = [values[..., k * NODES : (k + 1) * NODES] @ r.T for k, r in enumerate(self.r)]
        return np.concatenate(parts, axis=-1)

    def target(self, weighted: np.ndarray) -> np.ndarray:
        """Returns weighted values (..., n) in rows, (..., rows)."""
        parts = [weighted[..., chosen] @ q for chosen, q in zip(self.cells.members, self.q, strict=True)]
        return np.concatenate(parts, axis=-1)

    def rest(self, weighted: np.ndarray) -> np.ndarray:
        """Returns the sum of squares (...) of weighted values (..., n) that no column reaches."""
        total = np.zeros(weighted.shape[:-1])
        for chosen, q in zip(self.cells.members, self.q, strict=True):
            here = weighted[..., chosen]
            total = total + np.sum((here - (here @ q) @ q.T) ** 2, axis=-1)
        return np.asarray(total)


def cells_of(x: np.ndarray) -> Cells | None:
    """Returns the cells of sizes x (n, axes); None where they save little or sizes have no logarithm."""
    # Few points are left as they are before anything is worked out.
    if x.shape[1] > 1 or len(x) <= WORTH * NODES or x.min() <= 0:
        return None
    cells = Cells(x[:, 0])
    return cells if len(x) > WORTH * sum(min(len(chosen), NODES) for chosen in cells.members) else None


def condense(x: np.ndarray, root: np.ndarray) -> Condensed | None:
    """Returns weighted points at sizes x (n, axes) condensed; None where `cells_of` has none."""
    cells = cells_of(x)
    return None if cells is None else Condensed(cells, root)

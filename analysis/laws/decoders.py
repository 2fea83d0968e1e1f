"""Lines of several phase-1 decoders at the same sizes: what holds for these decoders, and what for a new one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.intervals import Interval, satterthwaite
from analysis.table.decoders import decoder_labels
from analysis.table.selection import Selection


@dataclass(frozen=True)
class DecoderLines:
    """One line for each decoder over the same sizes, a random effect of level and slope.

    With equally many sizes each, the decoders' lines are independent draws of one normal distribution, so that the t of
    their mean is exact for new decoders: REML's estimate of a random level and slope with Satterthwaite's degrees of
    freedom. About their own lines the points scatter by what is not the decoders'.
    """

    lines: np.ndarray
    """Intercept and slope of every decoder, (decoders, 2)."""
    inverse: np.ndarray
    """(X'X)^-1 of one decoder's sizes, (2, 2)."""
    variance: float
    """Of the points, each a decoder's mean at a size, about their decoder's line."""
    dof: int
    seed_variance: float
    """Of runs that differ in seed alone; 0 where there are none."""
    seed_dof: int
    seeds: float
    """Runs of a point."""

    @property
    def count(self) -> int:
        """Decoders."""
        return len(self.lines)

    def value(self, row: np.ndarray) -> float:
        """Mean over the decoders of row . (intercept, slope)."""
        return float((self.lines @ row).mean())

    def here(self, row: np.ndarray) -> Interval:
        """95% interval of row . (intercept, slope), the mean of these decoders."""
        return satterthwaite(self.value(row), [(self._leverage(row) * self.variance / self.count, self.dof)])

    def new(self, row: np.ndarray) -> Interval:
        """95% interval of the same, the mean of all decoders that could be."""
        return satterthwaite(self.value(row), [self.mean_part(row)])

    def mean_part(self, row: np.ndarray) -> tuple[float, float]:
        """Variance, and its degrees of freedom, of the mean of these decoders as an estimate of that of all."""
        return self._spread(row) / self.count, self.count - 1.0

    def run(self, row: np.ndarray, seeds: float = 1) -> Interval:
        """95% interval of the mean of so many new runs that start from one new decoder."""
        parts = [(self._spread(row) * (1 + 1 / self.count), self.count - 1.0)]
        # A decoder's line errs already by `leverage` times the variance of a point.
        left = max(1 - self._leverage(row), 0.0) * self.variance
        more = max(1 / seeds - 1 / self.seeds, 0.0) * self.seed_variance
        parts += [(left, float(self.dof))] * (left > 0) + [(more, float(self.seed_dof))] * (more > 0)
        return satterthwaite(self.value(row), parts)

    @property
    def sds(self) -> tuple[float, float]:
        """Standard deviations of the decoders' level, at the middle of the sizes, and slope, without the points'."""
        middle = np.array([1.0, -self.inverse[0, 1] / self.inverse[1, 1]])
        rows = (middle, np.array([0.0, 1.0]))
        level, slope = (max(self._spread(row) - self._leverage(row) * self.variance, 0.0) ** 0.5 for row in rows)
        return level, slope

    def _leverage(self, row: np.ndarray) -> float:
        return float(row @ self.inverse @ row)

    def _spread(self, row: np.ndarray) -> float:
        return float(np.var(self.lines @ row, ddof=1))


def decoder_lines(selection: Selection, log: bool) -> DecoderLines | None:
    """Returns the lines of a selection's decoders; None unless two or more were all run at the same 3 or more sizes.

    log: whether the line is straight in log10 of the size.
    """
    labels = decoder_labels(selection.used)
    names, sizes = sorted(set(labels)), np.unique(selection.x)
    if len(names) < 2 or "" in names or len(sizes) < 3:
        return None
    which = np.array([names.index(label) for label in labels])
    cell = which * len(sizes) + np.searchsorted(sizes, selection.x)
    runs = np.bincount(cell, minlength=len(names) * len(sizes))
    if not runs.all():
        return None
    means = np.bincount(cell, selection.y) / runs
    u = np.log10(sizes) if log else sizes
    design = np.column_stack([np.ones_like(u), u])
    scale = np.abs(design).max(axis=0)
    root = np.linalg.pinv(design / scale) / scale[:, None]
    inverse = root @ root.T
    points = means.reshape(len(names), len(sizes))
    lines = points @ root.T
    dof, seed_dof = len(names) * (len(sizes) - 2), int(runs.sum()) - len(runs)
    variance = float(np.sum((points - lines @ design.T) ** 2)) / dof
    seed_variance = float(np.sum((selection.y - means[cell]) ** 2)) / seed_dof if seed_dof else 0.0
    return DecoderLines(lines, inverse, variance, dof, seed_variance, seed_dof, float(len(runs) / np.sum(1 / runs)))

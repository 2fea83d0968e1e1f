"""Lines of several phase-1 decoders at the same sizes: what holds for these decoders, and what for a new one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.intervals import Interval, Sample, satterthwaite
from analysis.laws.noise import Replication
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
    sizes: np.ndarray
    """(sizes,)."""
    points: np.ndarray
    """Mean of every decoder at every size, (decoders, sizes)."""
    design: np.ndarray
    """Of a line at these sizes, (sizes, 2)."""
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

    def size_means(self, x_name: str, y_name: str) -> Sample:
        """The means over the decoders, one point per size, by which laws are judged.

        What a decoder adds to level and slope moves the law of all its points at once and is none of their scatter: no
        (decoder, size) is a point of its own. About the means' law the points scatter by what decoders do not share
        once each has its own line; that is what the sample's seeds know.
        """
        count, sizes = self.points.shape
        means = self.points.mean(axis=0)
        common = float(np.sum((means - self.design @ self.lines.mean(axis=0)) ** 2)) * count
        dof = (count - 1) * (sizes - 2)
        variance = max(self.variance * self.dof - common, 0.0) / dof
        runs, known = np.full(sizes, float(count)), None
        if variance > 0:
            theta = np.array([np.log(variance)])
            known = Replication(runs, np.ones((sizes, 1)), theta, np.array([[2 / dof]]), 0.0, float("nan"))
        return Sample(
            self.sizes[:, None], means, runs, np.ones(sizes), variance**0.5, dof if known else 0, float(count), known,
            x_name=x_name, y_name=y_name, repeats="decoders",
        )  # fmt: skip

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
    return DecoderLines(
        lines,
        sizes,
        points,
        design,
        inverse,
        variance,
        dof,
        seed_variance,
        seed_dof,
        float(len(runs) / np.sum(1 / runs)),
    )

"""Designs whose points bend: one law for all, chosen by evidence, and what it says of them at the sizes they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.inference.evidence import CANDIDATES, PLAUSIBLE, compare_laws
from analysis.inference.scatter import UnevenScatter, uneven_scatter
from analysis.laws.curves import CurveFit
from analysis.laws.intervals import Sample
from analysis.laws.noise import Replication

BEND = 0.05
"""Level of the test that looks for a bend before other laws are asked."""


@dataclass(frozen=True, eq=False)
class CurvedDesigns:
    """The same curved law fitted to every design; linear combinations of its values are tested by the delta method."""

    fits: tuple[CurveFit, ...]
    behind: float
    """By how much AICc, added over the designs, the line is behind."""
    design: np.ndarray
    """Gradients of all laws at their points, a block for each design, columns of length 1, shape (n, p)."""
    lengths: np.ndarray
    residuals: np.ndarray
    separate: bool
    uneven: UnevenScatter | None

    @property
    def name(self) -> str:
        """The law's."""
        return self.fits[0].name

    @property
    def dof(self) -> int:
        """Points less parameters, over all designs."""
        return int(self.design.shape[0] - self.design.shape[1])

    def rows(self, at: Sequence[float], shares: Sequence[float]) -> np.ndarray:
        """Gradients, shape (designs, p), of the sum of every design's law at sizes `at` times `shares`."""
        count = len(self.fits[0].parameters)
        found = np.zeros((len(self.fits), self.design.shape[1]))
        for k, fit in enumerate(self.fits):
            part = slice(k * count, (k + 1) * count)
            found[k, part] = np.asarray(shares) @ fit.form.gradient(np.array(at)[:, None], fit.parameters)
            found[k, part] /= self.lengths[part]
        return found

    def values(self, at: Sequence[float], shares: Sequence[float]) -> np.ndarray:
        """The sums themselves, shape (designs,)."""
        return np.array([float(np.asarray(shares) @ fit.value(np.array(at))) for fit in self.fits])

    def error(self, row: np.ndarray) -> tuple[float, float]:
        """Variance of the combination `row` (p,) of all parameters and its degrees of freedom."""
        if self.uneven is not None:
            return self.uneven.error(row)
        shares = row @ np.linalg.pinv(self.design)
        if not self.separate:
            return float(shares @ shares) * float(self.residuals @ self.residuals) / self.dof, float(self.dof)
        # Welch: a variance of each design's own, Satterthwaite's degrees of freedom.
        parts, start = [], 0
        for fit in self.fits:
            part = slice(start, start + fit.n)
            own = float(self.residuals[part] @ self.residuals[part]) / fit.dof
            parts.append((float(shares[part] @ shares[part]) * own, fit.dof))
            start += fit.n
        variance = sum(own for own, _ in parts)
        below = sum(own**2 / dof for own, dof in parts)
        return variance, variance**2 / below if below else float(self.dof)


def bent(points: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """P of the F test of a quadratic term in every design, (u, y) each (n,); 1 where so few points cannot show it."""
    straight = curved = 0.0
    dof = 0
    for u, y in points:
        z = (u - u.mean()) / max(float(np.ptp(u)), 1e-300)
        left = [y - base @ np.linalg.lstsq(base, y, rcond=None)[0] for base in (np.vander(z, 2), np.vander(z, 3))]
        straight, curved = straight + float(left[0] @ left[0]), curved + float(left[1] @ left[1])
        dof += len(u) - 3
    if dof < 1 or straight <= 1e-24 * sum(float(y @ y) for _, y in points):
        return 1.0
    return float(stats.f.sf((straight - curved) / len(points) / max(curved / dof, 1e-300), len(points), dof))


def curved_designs(
    samples: Sequence[Sample], us: Sequence[np.ndarray], line: str, seeds: Replication | None, separate: bool
) -> CurvedDesigns | None:
    """Chooses the law of all designs by AICc added over them; None where the line they were asked for is plausible.

    Args:
        samples: every design's configurations.
        us: their sizes on the line's axis, shape (n,) each.
        line: name of the line.
        seeds: what the seeds of all designs know; None without seeds.
        separate: whether every design has a residual variance of its own.
    """
    low = min(sample.low for sample in samples)
    if low <= 0 or bent([(u, sample.y) for u, sample in zip(us, samples, strict=True)]) >= BEND:
        return None
    found = [compare_laws(sample, tuple(dict.fromkeys((line, *CANDIDATES)))) for sample in samples]
    common = set.intersection(*({fit.name for fit in laws.fits if fit.dof > 0} for laws in found))
    totals = {name: sum(laws.get(name).aicc for laws in found) for name in common}
    totals = {name: total for name, total in totals.items() if np.isfinite(total)}
    if line not in totals or totals[line] - min(totals.values()) <= PLAUSIBLE:
        return None
    name = min(totals, key=lambda item: totals[item])
    fits = tuple(laws.get(name) for laws in found)
    blocks = [fit.form.gradient(fit.x, fit.parameters) for fit in fits]
    count = blocks[0].shape[1]
    design = np.zeros((sum(map(len, blocks)), count * len(fits)))
    start = 0
    for k, block in enumerate(blocks):
        design[start : start + len(block), k * count : (k + 1) * count] = block
        start += len(block)
    lengths = np.linalg.norm(design, axis=0)
    lengths[lengths == 0] = 1
    residuals = np.concatenate([fit.y - fit.value(fit.x) for fit in fits])
    uneven = uneven_scatter(design / lengths, residuals, np.concatenate(list(us)), seeds, not separate)
    return CurvedDesigns(
        fits, totals[line] - totals[name], design / lengths, lengths, residuals, separate, uneven
    )  # fmt: skip

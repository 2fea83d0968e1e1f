"""Which design scales better: slopes and levels of several groups of runs on one axis, by analysis of covariance.

>>> import pandas as pd
>>> sizes = [1e6, 1e7, 1e8, 1e9]
>>> wiggle = [0.001, -0.001, -0.001, 0.001]
>>> rows = [("mean", s, 9 - i + e) for i, (s, e) in enumerate(zip(sizes, wiggle))]
>>> rows += [("energy", s, 9 - 2 * i + e) for i, (s, e) in enumerate(zip(sizes, wiggle))]
>>> found = compare_designs(pd.DataFrame(rows, columns=["variant", "params", "rfid"]), "params", "rfid")
>>> round(found.differences[0].difference, 6), found.verdicts[0].claim, found.verdicts[0].verdict
(1.0, 'mean scales better than energy', 'not supported')
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.cautions import Caution, decoder_cautions, row_cautions
from analysis.inference.evidence import curvature
from analysis.inference.verdicts import Verdict, Word
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Sample, points
from analysis.laws.line import Law, configuration_means, regress
from analysis.laws.noise import Replication, Uncertainty, replication
from analysis.table.columns import find_column
from analysis.table.design import check_design
from analysis.table.selection import Selection, select
from drorae.errors import UserError
from drorae.metrics import registry
from drorae.metrics.registry import Better

SCHEMA = 1
"""Version of `DesignComparison.as_json`; it changes when a key is renamed or dropped."""

LEVEL = "5% over all pairs (Holm)"
"""Of the verdicts."""

SPREAD_RATIO = 3.0
"""Ratio of two designs' residual standard deviations from which pooling them is called into question."""

Errors = Literal["pooled", "separate"]
Quantity = Literal["slope", "level"]


@dataclass(frozen=True)
class DesignLine:
    """One design's own line; intervals 95%."""

    design: str
    n: int
    """Runs."""
    n_configurations: int
    x_range: tuple[float, float]
    slope: float
    """Change of y per decade of x (log-linear) or per unit of x (linear)."""
    slope_ci95: tuple[float, float]
    intercept: float
    """At log10(x) = 0 or x = 0, far outside the data; `level` is where the data are."""
    level: float
    """Value of the line at the comparison's `level_at`."""
    level_ci95: tuple[float, float]
    residual_sd: float


@dataclass(frozen=True)
class Difference:
    """One quantity of design `a` minus that of design `b`."""

    what: Quantity
    a: str
    b: str
    difference: float
    ci95: tuple[float, float]
    """Of this difference alone."""
    simultaneous95: tuple[float, float]
    """Bonferroni: all differences of this kind at once lie inside theirs with 95%."""
    t: float
    dof: float
    p_value: float
    p_holm: float
    """Holm's step-down adjustment over all pairs, slopes and levels apart."""


@dataclass(frozen=True)
class DesignComparison:
    """Slopes and levels of several designs, every pair of them, and a verdict for each claim one could make."""

    x_name: str
    y_name: str
    by: str
    law: Law
    better: Better
    errors: Errors
    paired: bool
    level_at: float
    """x in the middle (on the law's axis) of the sizes that all designs share."""
    parallel_p: float
    """F test that all slopes are equal."""
    lines: tuple[DesignLine, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    cautions: tuple[Caution, ...]
    excluded: tuple[tuple[str, str], ...]
    """(row, reason)."""
    eval_images: int | None

    def as_json(self) -> dict[str, Any]:
        """One JSON-able object.

        Keys: schema, x, y, by, law, better, errors, paired, level_at, parallel_p, designs (one per line, the fields
        of `DesignLine`), differences (the fields of `Difference`), verdicts (claim, verdict, reason, would_decide,
        level), warnings (code, message), excluded (row, reason), eval_images.
        """
        own = ("by", "law", "better", "errors", "paired", "level_at", "parallel_p", "eval_images")
        return {
            "schema": SCHEMA,
            "x": self.x_name,
            "y": self.y_name,
            **{name: getattr(self, name) for name in own},
            "designs": [asdict(item) for item in self.lines],
            "differences": [asdict(item) for item in self.differences],
            "verdicts": [item._asdict() for item in self.verdicts],
            "warnings": [item._asdict() for item in self.cautions],
            "excluded": [{"row": row, "reason": reason} for row, reason in self.excluded],
        }

    def text(self) -> str:
        """Plain lines for a terminal."""
        per = "per decade" if self.law == "log-linear" else "per unit"
        lines = [f"{self.y_name} on {self.x_name} by {self.by} ({self.better} is better)"]
        for item in self.lines:
            low, high = item.slope_ci95
            lines.append(
                f"  {item.design}: slope {significant(item.slope, high - low)} {per}, 95% CI {between(low, high)}; "
                f"{item.level:.4g} at {self.x_name} {self.level_at:.4g}; "
                f"{item.n_configurations} configurations, {item.n} runs"
            )
        lines.append(f"all slopes equal: p = {self.parallel_p:.3g}")
        for pair in self.differences:
            lines.append(
                f"  {pair.what} {pair.a} - {pair.b}: {pair.difference:.4g}, 95% CI {between(*pair.ci95)}, "
                f"p = {pair.p_value:.3g}, Holm {pair.p_holm:.3g}"
            )
        lines += [line for verdict in self.verdicts for line in verdict.lines("")]
        lines += [f"  left out: {row}: {reason}" for row, reason in self.excluded]
        lines += [f"  note: {item.message} [{item.code}]" for item in self.cautions]
        return "\n".join(lines)


def compare_designs(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str = "variant",
    law: Law = "log-linear",
    better: Better | None = None,
    errors: Errors = "pooled",
    paired: bool = False,
    reference: str | None = None,
    include: Iterable[str] = (),
) -> DesignComparison:
    """Compares how `y` scales with `x` in the designs that column `by` tells apart.

    Each design gets its own line through the means of its configurations (runs that differ in seed alone are one
    configuration, as everywhere in this package), so that seeds narrow nothing but the means. Adjustment for several
    pairs: Holm (1979) for p-values, slopes and levels apart; Bonferroni for the simultaneous intervals.

    Args:
        frame: one row per run.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: column of the metric.
        by: column that tells the designs apart.
        law: log-linear, y = a + b log10(x), or linear, y = a + b x.
        better: which direction of y is better; by default known from the metric's name.
        errors: pooled, one residual variance for all designs, exact t on C - 2 V degrees of freedom for C
            configurations and V designs; separate, each its own, differences by Welch's t (Satterthwaite).
        paired: compares size by size, by an effect of every size beside the designs' own, on C - S - 2 (V - 1) degrees
            of freedom for S sizes: what all designs share at one size (evaluation images, a law that is no straight
            line) drops out of every difference. Slopes and levels of single designs stay those of the unpaired fit.
        reference: compares this design with each other one; every pair by default.
        include: statuses of runs to use beside finished.

    Raises:
        UserError: what `select` and `check_design` refuse, for the design it happens in; fewer than two designs; a
            metric of unknown direction without `better`; designs without a size range in common; paired designs
            that were not run at the same sizes.
    """
    direction = better or registry.better(y)
    if direction is None:
        raise UserError(f"{y}: not known whether lower or higher is better; say so with better lower or better higher")
    column = find_column(frame, by)
    chosen = select(frame, x, y, include, law == "log-linear", column)
    names = list(dict.fromkeys(chosen.used[column].dropna().astype(str)))
    pairs = _pairs(names, by, len(chosen.x), reference)
    cells = [_cell(name, chosen.take((chosen.used[column].astype(str) == name).to_numpy()), law) for name in names]
    middle = _middle(cells, f"{y} on {x} by {by}", x)
    estimates = _regression(cells, middle, errors)
    lines = tuple(_lines(cells, middle, estimates))
    if paired:
        _check_paired(cells, by, x)
        estimates = _regression(cells, middle, errors, paired=True)
    differences = _differences(names, pairs, estimates)
    have = {cell.name: cell.sample.n for cell in cells}
    claims = tuple(verdict for item in differences for verdict in _verdicts(item, direction, have))
    cautions = (*_cautions(cells, lines, errors, law), *decoder_cautions(chosen))
    return DesignComparison(
        x, y, by, law, direction, errors, paired, 10**middle if law == "log-linear" else middle,
        estimates.parallel_p, lines, differences, claims, cautions, chosen.excluded, chosen.eval_images,
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979, Scand. J. Statist. 6, 65), in the order given.

    Written out because statsmodels' multipletests collects garbage at every call: a fifth of a second each.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


@dataclass(frozen=True)
class _Cell:
    """Configuration means of one design, and their sizes on the law's axis, u (n,)."""

    name: str
    sample: Sample
    u: np.ndarray
    y: np.ndarray
    """Values of the runs."""
    groups: np.ndarray
    """Their configurations."""
    told: tuple[Caution, ...]
    """Of its rows: what was taken as repeats, or as the best of several."""


@dataclass(frozen=True)
class _Estimates:
    """Slopes and levels of all designs, each with the covariance that differences are tested with."""

    slopes: tuple[np.ndarray, np.ndarray]
    levels: tuple[np.ndarray, np.ndarray]
    dof: float
    """Infinite where `parts` has each design's own."""
    parts: tuple[int, ...]
    """Residual degrees of freedom of every design, for Satterthwaite's; empty where the variance is pooled."""
    parallel_p: float
    uncertainty: Uncertainty | None = None
    """Where seeds scatter more at one end of the sizes: of slopes (in units of `spread`) and levels of all designs."""
    spread: float = 1.0

    def margin(self, what: Quantity, i: int, j: int) -> tuple[float, float] | None:
        """Variance of a difference and its degrees of freedom by what the seeds know; None where that is not asked."""
        if self.uncertainty is None:
            return None
        row = np.zeros(self.uncertainty.gradient.shape[1])
        start, unit = (len(row) // 2, self.spread) if what == "slope" else (0, 1.0)
        row[start + i], row[start + j] = 1 / unit, -1 / unit
        found = self.uncertainty.margin(row[None, :])
        return float(found.law[0]), float(found.dof[0])


def _uneven(cells: Sequence[_Cell]) -> Replication | None:
    """The seeds of all designs together, if they scatter more at one end of the sizes."""
    starts = np.cumsum([0, *(cell.sample.n for cell in cells)])
    groups = np.concatenate([cell.groups + start for cell, start in zip(cells, starts, strict=False)])
    sizes, values = (np.concatenate(part) for part in zip(*((c.sample.x[:, 0], c.y) for c in cells), strict=True))
    seeds = replication(sizes, values, groups)
    return seeds if seeds is not None and seeds.trend else None


def _pairs(names: Sequence[str], by: str, rows: int, reference: str | None) -> list[tuple[int, int]]:
    """The designs to compare, by their numbers."""
    if len(names) < 2:
        raise UserError(
            f"by {by}: {f'only {names[0]}' if names else 'no value'} in {rows} usable rows; "
            "expected at least two designs to compare"
        )
    if reference is None:
        return list(itertools.combinations(range(len(names)), 2))
    if reference not in names:
        raise UserError(f"reference {reference}: no such design; {by} is one of {', '.join(names)}")
    return [(i, names.index(reference)) for i, name in enumerate(names) if name != reference]


def _cell(name: str, part: Selection, law: Law) -> _Cell:
    try:
        check_design(part)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    x, y, runs = configuration_means(part.x, part.y, part.configurations)
    u = np.log10(x) if law == "log-linear" else x
    told = tuple(row_cautions(part))
    return _Cell(name, replace(points(x, y), runs=runs), u, part.y, part.configurations, told)


def _middle(cells: Sequence[_Cell], what: str, x: str) -> float:
    """The middle of the sizes that all designs share, on the law's axis."""
    low, high = max(cell.u.min() for cell in cells), min(cell.u.max() for cell in cells)
    if low >= high:
        raise UserError(
            f"{what}: the designs share no range of {x}, so that a bend of one law would look like a "
            "difference of slopes; run them at the same sizes"
        )
    return float(low + high) / 2


def _regression(cells: Sequence[_Cell], middle: float, errors: Errors, paired: bool = False) -> _Estimates:
    """Fits the lines of all designs, about `middle`, in one regression.

    Paired: with an effect of every size, and then only differences from the first design are estimated.
    """
    number, lost = len(cells), int(paired)
    counts = np.array([cell.sample.n for cell in cells])
    own = np.repeat(np.eye(number), counts, axis=0)
    u = np.concatenate([cell.u for cell in cells]) - middle
    spread = float(np.ptp(u))
    at = np.unique(u, return_inverse=True)[1]
    effects = np.eye(at.max() + 1)[at] if paired else np.empty((len(u), 0))
    lines = np.hstack([own[:, lost:], own[:, lost:] * (u / spread)[:, None]])
    design = np.hstack([effects, lines])
    fit = regress(design, np.concatenate([cell.sample.y for cell in cells]))
    seeds = None if paired or errors == "separate" else _uneven(cells)
    known = None if seeds is None else Uncertainty(design, np.ones(len(u)), float(fit.ssr), seeds)
    separate = errors == "separate" and not paired
    variances = own.T @ fit.resid**2 / (counts - 2) if separate else np.full(number, fit.scale)

    def block(start: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of one kind and their covariance in units of the variance."""
        part = slice(effects.shape[1] + start, effects.shape[1] + start + number - lost)
        inverse = fit.normalized_cov_params[part, part] / unit**2
        return np.pad(fit.params[part] / unit, (lost, 0)), np.pad(inverse, (lost, 0))

    levels, level_inverse = block(0, 1.0)
    slopes, slope_inverse = block(number - lost, spread)
    # F test of one common slope.
    contrasts = np.diff(np.eye(number), axis=0)
    apart = contrasts @ slopes
    with np.errstate(divide="ignore"):
        ratio = apart @ np.linalg.solve(contrasts @ slope_inverse @ contrasts.T, apart) / (number - 1) / fit.scale
    return _Estimates(
        (slopes, slope_inverse * variances), (levels, level_inverse * variances), float(fit.df_resid),
        tuple(counts - 2) if separate else (), float(stats.f.sf(ratio, number - 1, fit.df_resid)), known, spread,
    )  # fmt: skip


def _lines(cells: Sequence[_Cell], middle: float, found: _Estimates) -> Iterator[DesignLine]:
    """Each design's line about `middle`, with intervals from the pooled or its own variance."""
    for k, cell in enumerate(cells):
        sample, quantile = cell.sample, float(stats.t.ppf(0.975, found.parts[k] if found.parts else found.dof))
        (slope, slope_half), (level, level_half) = (
            (float(values[k]), quantile * math.sqrt(covariance[k, k]))
            for values, covariance in (found.slopes, found.levels)
        )
        left = sample.y - level - slope * (cell.u - middle)
        yield DesignLine(
            cell.name, int(sample.runs.sum()), sample.n, (sample.low, sample.high),
            slope, (slope - slope_half, slope + slope_half), level - slope * middle,
            level, (level - level_half, level + level_half), math.sqrt(float(left @ left) / (sample.n - 2)),
        )  # fmt: skip


def _check_paired(cells: Sequence[_Cell], by: str, x: str) -> None:
    sizes = np.unique(np.concatenate([cell.sample.x for cell in cells]))
    if any(not np.array_equal(np.sort(cell.sample.x[:, 0]), sizes) for cell in cells):
        raise UserError(
            f"paired by {by}: the designs were not each run once at the same {len(sizes)} values of {x}; "
            "expected the same sizes in every design; compare them unpaired"
        )


def _differences(names: Sequence[str], pairs: Sequence[tuple[int, int]], found: _Estimates) -> tuple[Difference, ...]:
    differences: list[Difference] = []
    kinds: tuple[tuple[Quantity, tuple[np.ndarray, np.ndarray]], ...] = ("slope", found.slopes), ("level", found.levels)
    for what, (values, covariance) in kinds:
        rows = []
        for i, j in pairs:
            variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
            dof = found.dof
            if found.parts and variance:
                # Satterthwaite (1946): the degrees of freedom of a sum of two variance estimates.
                dof = float(variance**2 / sum(covariance[k, k] ** 2 / found.parts[k] for k in (i, j)))
            variance, dof = found.margin(what, i, j) or (variance, dof)
            error, delta = math.sqrt(variance), float(values[i] - values[j])
            t = delta / error if error else math.copysign(math.inf, delta)
            halves = (float(stats.t.ppf(1 - 0.025 / k, dof)) * error for k in (1, len(pairs)))
            intervals = [(delta - half, delta + half) for half in halves]
            p = float(2 * stats.t.sf(abs(t), dof))
            rows.append(Difference(what, names[i], names[j], delta, intervals[0], intervals[1], t, dof, p, p))
        adjusted = holm([row.p_value for row in rows])
        differences += [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]
    return tuple(differences)


def _verdicts(item: Difference, better: Better, configurations: Mapping[str, int]) -> list[Verdict]:
    """The claim that a is better than b and its converse: scales better, or is better at the middle size."""
    low, high = item.simultaneous95
    reason = (
        f"difference of {item.what}s {item.difference:.4g}, 95% CI {between(*item.ci95)}, "
        f"p = {item.p_holm:.2g} after Holm"
    )
    says = "scales better than" if item.what == "slope" else "is better in the middle of the shared sizes than"
    claims = [f"{one} {says} {other}" for one, other in ((item.a, item.b), (item.b, item.a))]
    if item.p_holm < 0.05:
        words: list[Word] = ["supported", "not supported"]
        if (item.difference < 0) != (better == "lower"):
            words.reverse()
        return [Verdict(claim, word, reason, level=LEVEL) for claim, word in zip(claims, words, strict=True)]
    size = abs(item.difference)
    have = configurations[item.a] + configurations[item.b]
    factor = math.ceil(((high - low) / 2 / size) ** 2) if size > 0 else math.inf
    decides = "no affordable number of runs: the difference seen is too small"
    if factor <= 50:
        decides = (
            f"about {factor * have} configurations of the two over the same sizes instead of {have}, were the "
            "difference really that large"
        )
    return [Verdict(claim, "undecided", f"{reason}, includes zero", decides, LEVEL) for claim in claims]


def _cautions(cells: Sequence[_Cell], lines: Sequence[DesignLine], errors: Errors, law: Law) -> Iterator[Caution]:
    most, least = (choose(lines, key=lambda line: line.residual_sd) for choose in (max, min))
    if errors == "pooled" and 0 < least.residual_sd * SPREAD_RATIO < most.residual_sd:
        yield Caution(
            "unequal-variance",
            f"{most.design} scatters about its line {most.residual_sd / least.residual_sd:.3g} times as much as "
            f"{least.design}; errors separate gives each its own variance",
        )
    if (seeds := _uneven(cells)) is not None:
        low, high = min(cell.sample.low for cell in cells), max(cell.sample.high for cell in cells)
        yield Caution(
            "unequal-seed-variance",
            f"the sd between seeds goes from {seeds.sd(low):.3g} to {seeds.sd(high):.3g} over the sizes (likelihood "
            f"ratio, p = {seeds.p:.2g}): unpaired differences with pooled errors follow it, nothing else does",
        )
    lows, highs = zip(*((cell.u.min(), cell.u.max()) for cell in cells), strict=True)
    shared = (min(highs) - max(lows)) / (max(highs) - min(lows))
    if shared < 0.8:
        yield Caution(
            "different-ranges",
            f"the designs share {shared:.0%} of the range of sizes; where the law bends, slopes over "
            "different sizes differ without any difference between designs",
        )
    for cell in cells:
        yield from (Caution(item.code, f"{cell.name}: {item.message}") for item in cell.told)
        bent = curvature(cell.sample, law)
        if bent is not None and bent.dof >= 2 and bent.p < 0.05:
            said = f"{cell.name}: its points bend (quadratic term p = {bent.p:.2g}); a slope sums it up"
            yield Caution("curvature", said)
        fewest, most_runs = int(cell.sample.runs.min()), int(cell.sample.runs.max())
        if fewest != most_runs:
            said = f"{cell.name}: configurations have {fewest} to {most_runs} runs but weigh the same"
            yield Caution("unequal-seeds", said)

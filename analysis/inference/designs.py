"""Which design scales better: slopes and levels of several groups of runs on one axis, by analysis of covariance.

>>> import pandas as pd
>>> sizes = [1e6, 1e7, 1e8, 1e9]
>>> wiggle = [0.001, -0.001, -0.001, 0.001]
>>> rows = [("mean", s, 9 - i + e) for i, (s, e) in enumerate(zip(sizes, wiggle))]
>>> rows += [("energy", s, 9 - 2 * i + e) for i, (s, e) in enumerate(zip(sizes, wiggle))]
>>> found = compare_designs(pd.DataFrame(rows, columns=["variant", "params", "rfid"]), "params", "rfid")
>>> round(found.differences[0].difference, 6), found.verdicts[0].claim, found.verdicts[0].verdict
(1.0, 'energy scales better than mean', 'supported')
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.cautions import Caution, decoder_cautions, row_cautions
from analysis.inference.curved import CurvedDesigns, curved_designs
from analysis.inference.evidence import curvature
from analysis.inference.scatter import UnevenScatter, uneven_scatter
from analysis.inference.verdicts import Verdict
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Sample, points
from analysis.laws.line import Law, configuration_means, regress
from analysis.laws.noise import Replication, replication
from analysis.table.columns import find_column
from analysis.table.design import check_design
from analysis.table.selection import Selection, select
from drorae.errors import UserError
from drorae.metrics import registry
from drorae.metrics.registry import Better

SCHEMA = 1
"""Version of `DesignComparison.as_json`; it changes when a key is renamed or dropped."""

LEVEL = "5% over all claims of the comparison (Holm)"
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
    at: float | None
    """Size that a level is of; None for slopes."""
    difference: float
    ci95: tuple[float, float]
    """Of this difference alone."""
    simultaneous95: tuple[float, float]
    """Bonferroni: all differences of the comparison at once lie inside theirs with 95%."""
    t: float
    dof: float
    p_value: float
    p_holm: float
    """Holm's step-down adjustment over all pairs, slopes and levels together."""


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
    """Test that all slopes are equal: F, or where scatter changes with size the least p of a pair after Holm."""
    lines: tuple[DesignLine, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    cautions: tuple[Caution, ...]
    excluded: tuple[tuple[str, str], ...]
    """(row, reason)."""
    eval_images: int | None
    curved: CurvedDesigns | None = None
    """The law that differences are of where the designs' points rule out lines; None where lines are compared."""
    samples: tuple[Sample, ...] = ()
    """Configurations of every design, in the order of `lines`."""

    @property
    def mark(self) -> str:
        """Whose features the metric is measured in where training or the tokenizer of a design looks through them."""
        return next((sample.mark for sample in self.samples if sample.mark), "")

    @property
    def compared_law(self) -> str:
        """The law that differences and verdicts are of."""
        return self.law if self.curved is None else self.curved.name

    def value(self, k: int, x: np.ndarray) -> np.ndarray:
        """The law of design number `k` that is compared, at sizes x (m,)."""
        if self.curved is not None:
            return self.curved.fits[k].value(x)
        line = self.lines[k]
        return np.asarray(line.intercept + line.slope * (np.log10(x) if self.law == "log-linear" else x))

    def as_json(self) -> dict[str, Any]:
        """One JSON-able object.

        Keys: schema, x, y, by, law, better, errors, paired, level_at, parallel_p, designs (one per line, the fields
        of `DesignLine`), differences (the fields of `Difference`), verdicts (claim, verdict, reason, would_decide,
        level), warnings (code, message), excluded (row, reason), eval_images, compared_law, laws (design, its text).
        """
        own = ("by", "law", "better", "errors", "paired", "level_at", "parallel_p", "eval_images")
        return {
            "schema": SCHEMA,
            "x": self.x_name,
            "y": self.y_name,
            **({"mark": self.mark} if self.mark else {}),
            **{name: getattr(self, name) for name in own},
            "designs": [asdict(item) for item in self.lines],
            "differences": [asdict(item) for item in self.differences],
            "verdicts": [item._asdict() for item in self.verdicts],
            "warnings": [item._asdict() for item in self.cautions],
            "excluded": [{"row": row, "reason": reason} for row, reason in self.excluded],
            "compared_law": self.compared_law,
            "laws": [
                {"design": line.design, "text": fit.text}
                for line, fit in zip(self.lines, self.curved.fits if self.curved else (), strict=False)
            ],
        }

    def text(self) -> str:
        """Plain lines for a terminal."""
        per = "per decade" if self.law == "log-linear" else "per unit"
        lines = [f"{registry.marked(self.y_name, self.mark)} on {self.x_name} by {self.by} ({self.better} is better)"]
        for item in self.lines:
            low, high = item.slope_ci95
            lines.append(
                f"  {item.design}: slope {significant(item.slope, high - low)} {per}, 95% CI {between(low, high)}; "
                f"{item.level:.4g} at {self.x_name} {self.level_at:.4g}; "
                f"{item.n_configurations} configurations, {item.n} runs"
            )
        lines.append(f"all slopes equal: p = {self.parallel_p:.3g}")
        if self.curved is not None:
            lines.append(
                f"compared by {self.curved.name} (least AICc over all designs; {self.law} is {self.curved.behind:.1f} "
                "behind), slopes as means over the sizes all share"
            )
            named = zip(self.lines, self.curved.fits, strict=True)
            lines += [f"  {item.design}: {fit.text}" for item, fit in named]
        for pair in self.differences:
            where = "" if pair.at is None else f" at {pair.at:.4g}"
            lines.append(
                f"  {pair.what}{where} {pair.a} - {pair.b}: {pair.difference:.4g}, 95% CI {between(*pair.ci95)}, "
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

    Each design gets its own line through the means of its configurations. Adjustment for all claims together: Holm
    (1979) for p-values, Bonferroni for the simultaneous intervals. Every claim is made once.

    Where runs scatter more at one end of the sizes, as their seeds say or without seeds the residuals, errors follow it
    (`analysis.inference.scatter`). Where the points of the designs bend and rule out lines, the law that AICc prefers
    over all designs is compared instead: its mean slope over the sizes all share, and its level at three of them.

    Args:
        frame: one row per run.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: column of the metric.
        by: column that tells the designs apart.
        law: log-linear, y = a + b log10(x), or linear, y = a + b x.
        better: which direction of y is better; by default known from the metric's name.
        errors: pooled, exact t on C - 2 V degrees of freedom for C configurations and V designs; separate, Welch's t.
        paired: compares size by size, by an effect of every size beside the designs' own, on C - S - 2 (V - 1) degrees
            of freedom for S sizes: what all designs share at one size drops out of every difference. Slopes and levels
            of single designs stay those of the unpaired fit.
        reference: compares this design with each other one; every pair by default.
        include: statuses of runs to use beside finished.

    Raises:
        UserError: what `select` and `check_design` refuse, for the design it happens in; fewer than two designs; a
            metric of unknown direction without `better`; designs without a size range in common; paired designs
            that were not run at the same sizes.
    """
    direction = _direction(y, better)
    chosen, cells = _cells(frame, x, y, by, law, include)
    pairs = _pairs([cell.name for cell in cells], by, reference)
    middle = _middle(cells, f"{y} on {x} by {by}", x)
    estimates = _regression(cells, middle, errors)
    lines = tuple(_lines(cells, middle, estimates))
    if paired:
        _check_paired(cells, by, x)
        estimates = _regression(cells, middle, errors, paired=True)
    curved = None if paired else _curves(cells, law, errors)
    found = estimates if curved is None else _Curves(curved, _shared(cells), middle, law)
    differences = _differences([cell.name for cell in cells], pairs, found, law)
    claims = tuple(_verdict(item, direction, {cell.name: cell.sample.n for cell in cells}) for item in differences)
    uneven = estimates.uneven if curved is None else curved.uneven
    cautions = (*_cautions(cells, lines, errors, law, uneven), *decoder_cautions(chosen))
    return DesignComparison(
        x, y, by, law, direction, errors, paired, 10**middle if law == "log-linear" else middle,
        _parallel_p(estimates, differences), lines, differences, claims, cautions, chosen.excluded, chosen.eval_images,
        curved, tuple(cell.sample for cell in cells),
    )  # fmt: skip


def _direction(y: str, better: Better | None) -> Better:
    """Which direction of a metric is better."""
    direction = better or registry.better(y)
    if direction is None:
        raise UserError(f"{y}: not known whether lower or higher is better; say so with better lower or better higher")
    return direction


def _cells(
    frame: pd.DataFrame, x: str, y: str, by: str, law: Law, include: Iterable[str]
) -> tuple[Selection, list[_Cell]]:
    """The usable rows, and the configurations of every design among them."""
    column = find_column(frame, by)
    chosen = select(frame, x, y, include, law == "log-linear", column)
    names = list(dict.fromkeys(chosen.used[column].dropna().astype(str)))
    if len(names) < 2:
        raise UserError(
            f"by {by}: {f'only {names[0]}' if names else 'no value'} in {len(chosen.x)} usable rows; "
            f"expected at least two designs to compare{_lost(chosen)}"
        )
    of = chosen.used[column].astype(str)
    return chosen, [_cell(name, chosen.take((of == name).to_numpy()), law) for name in names]


def _lost(chosen: Selection) -> str:
    """Why most of the rows that were left out were."""
    if not chosen.excluded:
        return ""
    reason, count = Counter(reason for _, reason in chosen.excluded).most_common(1)[0]
    return f"; {count} rows were left out: {reason}"


def _curves(cells: Sequence[_Cell], law: Law, errors: Errors) -> CurvedDesigns | None:
    samples, us = [cell.sample for cell in cells], [cell.u for cell in cells]
    return curved_designs(samples, us, law, _seeds(cells), errors == "separate")


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
    middle: float
    uneven: UnevenScatter | None = None
    """Where points scatter more at one end of the sizes."""
    columns: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Of the regression: every design's slope (in units of `spread`) and level; -1 where it is the first design's."""
    spread: float = 1.0

    @property
    def kinds(self) -> list[tuple[Quantity, float | None]]:
        """What is compared: quantity, and its size on the line's axis, about which the lines were fitted."""
        return [("slope", None), ("level", self.middle)]

    def values(self, what: Quantity, at: float | None) -> np.ndarray:
        """Of all designs, (designs,)."""
        return (self.slopes if what == "slope" else self.levels)[0]

    def error(self, what: Quantity, i: int, j: int | None = None, at: float | None = None) -> tuple[float, float]:
        """Variance of design i's slope or level, or of its difference from design j's, and the degrees of freedom."""
        if self.uneven is not None:
            row = np.zeros(self.uneven.design.shape[1])
            columns, unit = (self.columns[0], self.spread) if what == "slope" else (self.columns[1], 1.0)
            for design, sign in ((i, 1), (j, -1)):
                if design is not None and columns[design] >= 0:
                    row[columns[design]] = sign / unit
            return self.uneven.error(row)
        covariance = (self.slopes if what == "slope" else self.levels)[1]
        if j is None:
            return float(covariance[i, i]), float(self.parts[i] if self.parts else self.dof)
        variance = float(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
        if not (self.parts and variance):
            return variance, self.dof
        # Satterthwaite (1946): the degrees of freedom of a sum of two variance estimates.
        return variance, float(variance**2 / sum(covariance[k, k] ** 2 / self.parts[k] for k in (i, j)))


@dataclass(frozen=True, eq=False)
class _Curves:
    """What a curved law says of all designs: mean slopes over the shared sizes, and levels at three of them."""

    laws: CurvedDesigns
    shared: tuple[float, float]
    """Ends of the shared sizes, on the line's axis."""
    middle: float
    law: Law

    @property
    def kinds(self) -> list[tuple[Quantity, float | None]]:
        """What is compared: quantity, and its size on the line's axis."""
        low, high = self.shared
        return [("slope", None), *(("level", u) for u in (low, self.middle, high))]

    def _combination(self, at: float | None) -> tuple[list[float], list[float]]:
        """Sizes and the shares of the law's values there."""
        ends = self.shared if at is None else (at,)
        sizes = [10**u if self.law == "log-linear" else u for u in ends]
        span = self.shared[1] - self.shared[0]
        return sizes, [-1 / span, 1 / span] if at is None else [1.0]

    def values(self, what: Quantity, at: float | None) -> np.ndarray:
        """Of all designs, (designs,)."""
        return self.laws.values(*self._combination(at))

    def error(self, what: Quantity, i: int, j: int, at: float | None = None) -> tuple[float, float]:
        """Variance of a difference and its degrees of freedom."""
        rows = self.laws.rows(*self._combination(at))
        return self.laws.error(rows[i] - rows[j])


def _seeds(cells: Sequence[_Cell]) -> Replication | None:
    """What the seeds of all designs together know of the scatter."""
    starts = np.cumsum([0, *(cell.sample.n for cell in cells)])
    groups = np.concatenate([cell.groups + start for cell, start in zip(cells, starts, strict=False)])
    sizes, values = (np.concatenate(part) for part in zip(*((c.sample.x[:, 0], c.y) for c in cells), strict=True))
    return replication(sizes, values, groups)


def _pairs(names: Sequence[str], by: str, reference: str | None) -> list[tuple[int, int]]:
    """The designs to compare, by their numbers."""
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
    return _Cell(name, replace(points(x, y), runs=runs, mark=part.mark), u, part.y, part.configurations, told)


def _shared(cells: Sequence[_Cell]) -> tuple[float, float]:
    """Ends of the sizes that all designs share, on the law's axis."""
    return float(max(cell.u.min() for cell in cells)), float(min(cell.u.max() for cell in cells))


def _middle(cells: Sequence[_Cell], what: str, x: str) -> float:
    """The middle of the sizes that all designs share, on the law's axis."""
    low, high = _shared(cells)
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
    separate = errors == "separate" and not paired
    uneven = uneven_scatter(design, np.asarray(fit.resid), u, _seeds(cells), not separate)
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
    first = effects.shape[1] - lost
    columns = [tuple(start + k if k >= lost else -1 for k in range(number)) for start in (first + number - lost, first)]
    return _Estimates(
        (slopes, slope_inverse * variances), (levels, level_inverse * variances), float(fit.df_resid),
        tuple(counts - 2) if separate else (), float(stats.f.sf(ratio, number - 1, fit.df_resid)), middle, uneven,
        (columns[0], columns[1]), spread,
    )  # fmt: skip


def _lines(cells: Sequence[_Cell], middle: float, found: _Estimates) -> Iterator[DesignLine]:
    """Each design's line about `middle`, with intervals from the pooled or its own variance."""
    for k, cell in enumerate(cells):
        sample, slope, level = cell.sample, float(found.slopes[0][k]), float(found.levels[0][k])
        slope_half, level_half = (
            float(stats.t.ppf(0.975, dof)) * math.sqrt(variance)
            for variance, dof in (found.error("slope", k), found.error("level", k))
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


def _differences(
    names: Sequence[str], pairs: Sequence[tuple[int, int]], found: _Estimates | _Curves, law: Law
) -> tuple[Difference, ...]:
    rows: list[Difference] = []
    count = len(found.kinds) * len(pairs)
    for what, at in found.kinds:
        values = found.values(what, at)
        size = at if at is None or law == "linear" else float(10**at)
        for i, j in pairs:
            variance, dof = found.error(what, i, j, at)
            error, delta = math.sqrt(variance), float(values[i] - values[j])
            t = delta / error if error else math.copysign(math.inf, delta)
            halves = (float(stats.t.ppf(1 - 0.025 / k, dof)) * error for k in (1, count))
            intervals = [(delta - half, delta + half) for half in halves]
            p = float(2 * stats.t.sf(abs(t), dof))
            rows.append(Difference(what, names[i], names[j], size, delta, intervals[0], intervals[1], t, dof, p, p))
    adjusted = holm([row.p_value for row in rows])
    return tuple(replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True))


def _parallel_p(found: _Estimates, differences: Sequence[Difference]) -> float:
    """The F test's p, which supposes even scatter; elsewhere the least of all pairs of slopes after Holm."""
    if found.uneven is None:
        return found.parallel_p
    return float(holm([item.p_value for item in differences if item.what == "slope"]).min())


def _verdict(item: Difference, better: Better, configurations: Mapping[str, int]) -> Verdict:
    """Which of two designs scales better, or is better at a size: one claim, of the better where that is decided."""
    low, high = item.simultaneous95
    reason = (
        f"difference of {item.what}s {item.difference:.4g}, 95% CI {between(*item.ci95)}, "
        f"p = {item.p_holm:.2g} after Holm"
    )
    scales = item.at is None
    if item.p_holm < 0.05:
        first, second = (item.a, item.b) if (item.difference < 0) == (better == "lower") else (item.b, item.a)
        says = f"{first} scales better than {second}" if scales else f"{first} is better than {second} at {item.at:.4g}"
        return Verdict(says, "supported", reason, level=LEVEL)
    says = f"one of {item.a} and {item.b} " + ("scales better" if scales else f"is better at {item.at:.4g}")
    size = abs(item.difference)
    have = configurations[item.a] + configurations[item.b]
    factor = math.ceil(((high - low) / 2 / size) ** 2) if size > 0 else math.inf
    decides = "no affordable number of runs: the difference seen is too small"
    if factor <= 50:
        decides = (
            f"about {factor * have} configurations of the two over the same sizes instead of {have}, were the "
            "difference really that large"
        )
    return Verdict(says, "undecided", f"{reason}, not told from zero", decides, LEVEL)


def _scatter_cautions(cells: Sequence[_Cell], uneven: UnevenScatter | None) -> Iterator[Caution]:
    if uneven is not None and uneven.seeds is not None:
        low, high = min(cell.sample.low for cell in cells), max(cell.sample.high for cell in cells)
        yield Caution(
            "unequal-seed-variance",
            f"the sd between seeds goes from {uneven.seeds.sd(low):.3g} to {uneven.seeds.sd(high):.3g} over the sizes "
            f"(likelihood ratio, p = {uneven.p:.2g}): intervals and tests follow it",
        )
    elif uneven is not None:
        yield Caution(
            "unequal-scatter",
            "points may scatter more about their lines at one end of the sizes (likelihood ratio, "
            f"p = {uneven.p:.2g}): intervals and tests allow for it; seeds would tell",
        )


def _cautions(
    cells: Sequence[_Cell], lines: Sequence[DesignLine], errors: Errors, law: Law, uneven: UnevenScatter | None
) -> Iterator[Caution]:
    most, least = (choose(lines, key=lambda line: line.residual_sd) for choose in (max, min))
    if errors == "pooled" and 0 < least.residual_sd * SPREAD_RATIO < most.residual_sd:
        yield Caution(
            "unequal-variance",
            f"{most.design} scatters about its line {most.residual_sd / least.residual_sd:.3g} times as much as "
            f"{least.design}; errors separate gives each its own variance",
        )
    yield from _scatter_cautions(cells, uneven)
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

"""Laws of two axes at once, such as size and layers: what each adds, whether they interact, in what form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.cautions import Caution, fit_flags, size_cautions
from analysis.inference.evidence import PLAUSIBLE, said_behind
from analysis.inference.gains import fusion_helps
from analysis.inference.verdicts import Verdict, judged_at
from analysis.laws.curves import CurveFit
from analysis.laws.forms import FORMS
from analysis.laws.intervals import Sample, parameter_intervals
from analysis.laws.line import average
from analysis.table.cells import check_commas, floats
from analysis.table.columns import find_column, numbers
from analysis.table.decoders import check_decoders
from analysis.table.design import check_axes
from analysis.table.measured import average_size
from analysis.table.selection import Selection, select
from drorae.errors import UserError


class Family(NamedTuple):
    """Laws of one kind, by name: additive in both axes, with an interaction, and of each axis alone."""

    additive: str
    crossed: str
    first: str
    second: str
    of_first: str
    """Parameter of the additive law that says what the first axis does."""
    of_second: str


FAMILIES = (
    Family("plane", "interaction", "log-linear", "linear", "b", "c"),
    Family("log-plane", "log-interaction", "log-linear", "log-linear", "b", "c"),
    Family("two-powers", "two-powers-crossed", "power-offset", "power-offset", "alpha", "beta"),
)
"""In the first two the second axis stands as it is, and in its logarithm."""
SCALES = {"log": "plane", "linear": "log-plane"}
"""What may follow a second axis behind a colon, and the additive law that is not heard then."""
LEVEL = 0.05
"""Of the F tests."""


@dataclass(frozen=True)
class FTest:
    """Whether parameters more explain more than chance would: F on (extra, dof) degrees of freedom."""

    what: str
    f: float
    extra: int
    dof: int
    p_value: float


@dataclass(frozen=True)
class JointAnalysis:
    """One metric against two axes: laws of one and of both, tests, verdicts."""

    sample: Sample
    selection: Selection
    x_name: str
    second_name: str
    y_name: str
    fits: tuple[CurveFit, ...]
    """Laws of both axes, the best AICc first."""
    alone: tuple[tuple[str, CurveFit], ...]
    """(axis, law of that axis alone), one of every kind that a law of both axes reduces to."""
    skipped: tuple[tuple[str, str], ...]
    groups: np.ndarray
    """The number of every run's configuration, shape (runs,)."""
    scale: str = ""
    """How planes take the second axis: log, linear, or both where it is empty."""

    def mean_of(self, column: str) -> np.ndarray:
        """Mean of a column's cells in the runs of every configuration, shape (n,).

        Raises:
            UserError: no such column, or a cell that is no number.
        """
        values = numbers(self.selection.used, find_column(self.selection.used, column))
        if not np.all(np.isfinite(values)):
            raise UserError(f"{column}: a cell is missing or not a finite number; expected one for every run used")
        return np.asarray(np.bincount(self.groups, weights=values) / np.bincount(self.groups))

    def find(self, name: str) -> CurveFit | None:
        """The law of both axes called `name`, if it was fitted."""
        return next((fit for fit in self.fits if fit.name == name), None)

    @property
    def preferred(self) -> CurveFit:
        """The law with the least AICc, of one axis or of both."""
        return min((*self.fits, *(fit for _, fit in self.alone)), key=lambda fit: fit.aicc)

    def delta(self, fit: CurveFit) -> float:
        """How much AICc a law is behind the preferred one."""
        return fit.aicc - self.preferred.aicc

    @property
    def family(self) -> Family:
        """The kind of the best law of both axes: within it axes and interaction are tested."""
        return next(item for item in FAMILIES if self.fits[0].name in (item.additive, item.crossed))

    @property
    def additive(self) -> CurveFit:
        """The additive law of that kind."""
        return next(fit for fit in self.fits if fit.name == self.family.additive)

    @property
    def crossed(self) -> CurveFit | None:
        """The same with an interaction, if the runs can carry it."""
        return self.find(self.family.crossed)

    @property
    def plausible(self) -> list[CurveFit]:
        """Laws of both axes less than 4 AICc behind the best of them."""
        return [fit for fit in self.fits if fit.aicc - self.fits[0].aicc < PLAUSIBLE]

    @cached_property
    def tests(self) -> tuple[FTest, ...]:
        """Each axis beyond the other, and their interaction, as F tests of nested laws of the best law's kind.

        Exact for planes. For powers the two of an axis are approximate, on the careful side: without the axis its
        exponent means nothing.
        """
        x, second, family = self.x_name, self.second_name, self.family
        alone = {(axis, fit.name): fit for axis, fit in self.alone}
        of_x, of_second = alone[x, family.first], alone[second, family.second]
        return (
            _f_test(f"{second} beyond {x}", of_x, self.additive),
            _f_test(f"{x} beyond {second}", of_second, self.additive),
            *([_f_test("interaction", self.additive, self.crossed)] if self.crossed else []),
        )

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of each axis, of their interaction and of the form; with gains, of whether fusion helps."""
        second, x, *crossed = self.tests
        helps = fusion_helps(self.selection)
        return (
            self._axis_verdict(second, self.family.of_second, self.second_name),
            self._axis_verdict(x, self.family.of_first, self.x_name),
            self._additive_verdict(*crossed),
            self._form_verdict(),
            *([] if helps is None else [helps]),
        )

    @judged_at("5%, F test")
    def _axis_verdict(self, test: FTest, name: str, axis: str) -> Verdict:
        claim = f"{test.what}: {self.sample.y_said} depends on it where the other axis is held"
        ends = parameter_intervals(self.additive)[name]
        unit = "unit" if axis == self.second_name and self.additive.name == "plane" else "decade"
        what = f"exponent of {axis}" if self.additive.form.curved else f"per {unit} of {axis}"
        said = f"{ends.low:.4g} .. {ends.high:.4g} {what}, 95%; "
        said += f"F({test.extra}, {test.dof}) = {test.f:.3g}, p = {test.p_value:.2g}"
        if test.p_value < LEVEL:
            return Verdict(claim, "supported", said)
        decide = "more values of this axis, at several values of the other"
        return Verdict(claim, "undecided", f"no effect is resolved: {said}", decide)

    @judged_at("5%, F test")
    def _additive_verdict(self, test: FTest | None = None) -> Verdict:
        claim = "additive: each axis does the same wherever the other stands"
        crossed = self.crossed
        if test is None or crossed is None:
            decide = f"runs that vary {self.x_name} and {self.second_name} together: the corners of a grid"
            return Verdict(claim, "undecided", dict(self.skipped)[self.family.crossed], decide)
        name = crossed.form.coefficients[-1]
        low, high = parameter_intervals(crossed)[name]
        said = f"interaction {name} of {crossed.form.formula}: {low:.3g} .. {high:.3g}, 95%; p = {test.p_value:.2g}"
        if test.p_value >= LEVEL:
            return Verdict(claim, "undecided", said, "more runs at the corners of the grid, which weigh most for it")
        # Additivity on one scale is none on another: where an additive law of another kind may hold, nothing is shown.
        others = [fit.name for fit in self.plausible if fit.name in _ADDITIVE and fit.name != self.additive.name]
        if others:
            said += f"; {', '.join(others)}, additive, is within {PLAUSIBLE:g} AICc of the best law"
            return Verdict(claim, "undecided", said, "a wider range of both axes, which tells these laws apart")
        return Verdict(claim, "not supported", said)

    @judged_at(f"{PLAUSIBLE:g} AICc")
    def _form_verdict(self) -> Verdict:
        claim = f"form: {self.fits[0].form.formula}"
        if self.fits[0] is self.additive and self.crossed and self.tests[2].p_value < LEVEL:
            return Verdict(claim, "undecided", "its interaction is resolved", "more runs at the corners of the grid")
        # An interaction that is not resolved is the matter of the verdict on additivity.
        own = [self.family.crossed] if self.fits[0] is self.additive else []
        rivals = [fit for fit in self.fits[1:] if fit.name not in own]
        others = [fit.name for fit in rivals if fit in self.plausible or not np.isfinite(fit.aicc)]
        if not others and rivals:
            reason = f"every other law of both axes is {PLAUSIBLE:g} AICc or more behind"
            return Verdict(claim, "supported", reason)
        reason = (
            f"within {PLAUSIBLE:g} AICc or with too few points for one: {', '.join(others)}"
            if others
            else "no other law could be fitted"
        )
        return Verdict(claim, "undecided", reason, "a wider range of both axes")

    @cached_property
    def cautions(self) -> tuple[Caution, ...]:
        """What a reader should know of the sizes, and what is wrong with a plausible law of both axes."""
        of_fits = (item for fit in self.plausible for item in fit_flags(fit))
        return (*size_cautions(self.selection), *of_fits)

    def text(self) -> str:
        """Plain lines for a terminal."""
        lines = [
            f"{self.sample.y_said} against {self.x_name} (P) and {self.second_name} (L): "
            f"{self.sample.n} configurations, {len(self.selection.x)} runs",
            f"  tested in: {self.additive.form.formula}",
        ]
        for name, formula, values, r2, delta in self.rows():
            lines.append(f"  {name}: {formula}; {values}; R2 {r2}; AICc behind the best: {delta}")
        lines += [f"  {name}: not fitted: {reason}" for name, reason in self.skipped]
        lines += [f"  left out: {row}: {reason}" for row, reason in self.selection.excluded]
        lines += [f"  note: {item.message} [{item.code}]" for item in self.cautions]
        lines += [line for item in self.verdicts for line in item.lines()]
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, formula, parameters, R2 and AICc behind the preferred law, of every law fitted."""
        rows = []
        alone = [(f"{axis} alone", fit) for axis, fit in self.alone]
        for name, fit in [*((fit.name, fit) for fit in self.fits), *alone]:
            values = ", ".join(
                f"{key} {value:.4g} ({low:.4g} .. {high:.4g})" + (" at its bound" if key in fit.at_bound else "")
                for (key, (low, high)), value in zip(parameter_intervals(fit).items(), fit.parameters, strict=True)
            )
            rows.append((name, fit.form.formula, values, f"{fit.r2:.3f}", said_behind(self.delta(fit))))
        return rows


def analyse_axes(frame: pd.DataFrame, x: str, second: str, y: str, include: Iterable[str] = ()) -> JointAnalysis:
    """Fits laws of `y` on log10 of size `x` and on `second` together, over the usable rows of `frame`.

    Runs that differ in seed alone are averaged first, as in `analyse`.

    Args:
        frame: one row per run.
        x: column of the size that is taken in its logarithm, or params, capacity, layers (`X_ALIASES`).
        second: column of the other axis. The plane takes it as it is and in its logarithm, and AICc decides; with
            ":log" or ":linear" behind the name in that way alone.
        y: column of the metric.
        include: statuses of runs to use beside finished.

    >>> import itertools
    >>> import pandas as pd
    >>> rows = [(p, n, 3 - 0.2 * i - 0.05 * n + 0.001 * (-1) ** (i + n)) for (i, p), n in
    ...         itertools.product(enumerate([1e6, 1e7, 1e8]), [1, 2, 4, 8])]
    >>> found = analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    >>> found.find("plane").parameters.round(2).tolist()
    [4.2, -0.2, -0.05]
    >>> [item.verdict for item in found.verdicts[:3]]
    ['supported', 'supported', 'undecided']

    Raises:
        UserError: what `select` and `check_axes` refuse; fewer configurations than a
            plane's parameters + 2; the same y everywhere.
    """
    second, scale = axis_scale(second)
    column = find_column(frame, second)
    check_commas(frame[column])
    usable = np.isfinite(floats(frame[column]))
    if not usable.any():
        raise UserError(f"{second}: no cell of column {column} is a number; expected a second size, such as layers")
    selection = select(frame[usable], x, y, include, second=column)
    if selection.x_column == column:
        raise UserError(f"{second}: both axes are the column {column}; expected two different ones")
    check_decoders(selection.used, y, [selection.x_column, column])
    measured = floats(selection.used[column])
    logged = bool(np.all(measured > 0))
    other = average_size(selection.used, column, measured, selection.seeds, [selection.x_column], logged)
    if np.any(other != measured):
        selection = replace(selection, averaged=(*selection.averaged, column))
    keys = pd.DataFrame({"configuration": selection.configurations, "second": other})
    groups = keys.groupby(["configuration", "second"], sort=False).ngroup().to_numpy()
    both, needed = f"{x} and {second}", FORMS["plane"].least_points
    sample = replace(average(selection, np.column_stack([selection.x, other]), groups), x_name=both)
    sizes = sample.x
    check_axes({f"log10({x})": np.log10(sizes[:, 0]), second: sizes[:, 1]})
    if sample.n < needed:
        raise UserError(f"{y} on {both}: {sample.n} configurations; a plane needs {needed}; run more sizes")
    if np.ptp(sample.y) == 0:
        raise UserError(f"{y} on {both}: {y} is the same in every run; check that it was measured")
    if scale == "log" and sizes[:, 1].min() <= 0:
        raise UserError(f"{second}:log: a value of {sizes[:, 1].min():g} has no logarithm; leave :log out")
    return JointAnalysis(sample, selection, x, second, y, *fit_joint(sample, x, second, scale), groups, scale)


def axis_scale(text: str) -> tuple[str, str]:
    """The column of a second axis and its scale, log, linear or none, of text such as tokens:log."""
    column, _, scale = text.rpartition(":")
    return (column, scale) if column and scale in SCALES else (text, "")


def fit_joint(
    sample: Sample, x: str, second: str, scale: str
) -> tuple[tuple[CurveFit, ...], tuple[tuple[str, CurveFit], ...], tuple[tuple[str, str], ...]]:
    """Laws of both axes, the best first, laws of one, and what was not fitted for which reason."""
    families = [item for item in FAMILIES if item.additive != SCALES.get(scale)]
    names = [name for item in families for name in (item.additive, item.crossed)]
    reasons = {name: _reason_to_skip(name, sample, x, second) for name in names}
    fits = [sample.fit(name) for name, reason in reasons.items() if not reason]
    fits.sort(key=lambda fit: (fit.aicc, fit.aic))
    fitted = [item for item in families if not reasons[item.additive]]
    first = dict.fromkeys(item.first for item in fitted)
    last = dict.fromkeys(item.second for item in fitted)
    alone = [(x, replace(sample, x=sample.x[:, :1]).fit(name)) for name in first]
    alone += [(second, replace(sample, x=sample.x[:, 1:]).fit(name)) for name in last]
    skipped = tuple((name, reason) for name, reason in reasons.items() if reason)
    return tuple(fits), tuple(alone), skipped


_ADDITIVE = frozenset(item.additive for item in FAMILIES)


def _reason_to_skip(name: str, sample: Sample, x: str, second: str) -> str:
    """Why these runs cannot carry a law of both axes; empty where they can."""
    form, logged = FORMS[name], name not in ("plane", "interaction")
    if sample.n < form.least_points:
        return f"{len(form.parameters)} parameters want {form.least_points} configurations, not {sample.n}"
    if any(len(np.unique(sample.x[:, k])) < wanted for k, wanted in enumerate(form.levels)):
        return f"wants {' and '.join(map(str, form.levels))} values of the axes"
    if logged and sample.x[:, 1].min() <= 0:
        return f"{second} of {sample.x[:, 1].min():g} has no logarithm and no power"
    if name in ("log-plane", "log-interaction"):
        try:
            check_axes({f"log10({x})": np.log10(sample.x[:, 0]), f"log10({second})": np.log10(sample.x[:, 1])})
        except UserError as error:
            return str(error)
    if name not in _ADDITIVE and _one_at_a_time(sample, logged):
        return "the axes were varied one at a time, never together: the interaction cannot be seen"
    return ""


def _one_at_a_time(sample: Sample, logged: bool) -> bool:
    """Whether the product of the axes is a linear function of the axes in these runs; `logged`: of the second as well.

    Where the axes were varied one at a time that holds on every scale.
    """
    first, second = np.log10(sample.x[:, 0]), np.log10(sample.x[:, 1]) if logged else sample.x[:, 1]
    first, second = first - first.mean(), second - second.mean()
    product = first * second
    plane = np.column_stack([np.ones(sample.n), first, second])
    left = product - plane @ np.linalg.lstsq(plane, product, rcond=None)[0]
    return float(left @ left) <= 1e-9 * max(float(product @ product), 1e-300)


def _f_test(what: str, small: CurveFit, large: CurveFit) -> FTest:
    extra = len(large.parameters) - len(small.parameters)
    f = ((small.rss - large.rss) / extra) / (large.rss / large.dof) if large.rss > 0 else float("inf")
    return FTest(what, f, extra, large.dof, float(stats.f.sf(f, extra, large.dof)))

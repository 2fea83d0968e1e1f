"""Laws of two axes at once, such as size and layers: what each adds, whether they interact, in what form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.analysis import VERSION, finite
from analysis.inference.evidence import PLAUSIBLE, fit_flags
from analysis.inference.verdicts import Verdict
from analysis.laws.curves import CurveFit, fit_curve
from analysis.laws.forms import FORMS
from analysis.laws.intervals import Sample, curve_tree, parameter_intervals, precision
from analysis.laws.line import seed_spread
from analysis.report.blocks import Block, Heading, Notes, Picture, Table, Text, html_page, markdown_page
from analysis.report.figures import INK, LINE, display_name, log_axis, panels, save, write_atomic
from analysis.table.columns import find_column
from analysis.table.design import check_axes
from analysis.table.selection import Selection, select
from drorae.errors import UserError

JOINT = ("plane", "interaction", "two-powers")
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
    """(axis, law of that axis alone)."""
    skipped: tuple[tuple[str, str], ...]

    def find(self, name: str) -> CurveFit | None:
        """The law of both axes called `name`, if it was fitted."""
        return next((fit for fit in self.fits if fit.name == name), None)

    def delta(self, fit: CurveFit) -> float:
        """How much AICc a law is behind the best of all of them."""
        return fit.aicc - min(item.aicc for item in (*self.fits, *(other for _, other in self.alone)))

    @cached_property
    def tests(self) -> tuple[FTest, ...]:
        """Each axis beyond the other, and their interaction, as F tests of nested least squares."""
        plane, both = self.find("plane"), self.find("interaction")
        found = []
        for axis, other in ((self.second_name, self.x_name), (self.x_name, self.second_name)):
            small = dict(self.alone)[other]
            if plane is not None:
                found.append(_f_test(f"{axis} beyond {other}", small, plane))
        if plane is not None and both is not None:
            found.append(_f_test("interaction", plane, both))
        return tuple(found)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of each axis, of their interaction and of the form."""
        found = []
        plane = self.find("plane")
        intervals = {} if plane is None else parameter_intervals(plane)
        for test, name, per in zip(self.tests, ("c", "b"), (f"per unit of {self.second_name}",
                                   f"per decade of {self.x_name}"), strict=False):  # fmt: skip
            low, high = intervals[name]
            said = f"{low:.4g} .. {high:.4g} {per}, 95%; "
            said += f"F({test.extra}, {test.dof}) = {test.f:.3g}, p = {test.p_value:.2g}"
            claim = f"{test.what}: {self.y_name} depends on it where the other axis is held"
            if test.p_value < LEVEL:
                found.append(Verdict(claim, "supported", said))
            else:
                decide = "more values of this axis, at several values of the other"
                found.append(Verdict(claim, "undecided", f"no effect is resolved: {said}", decide))
        claim = "additive: each axis does the same wherever the other stands"
        crossing = next((test for test in self.tests if test.what == "interaction"), None)
        both = self.find("interaction")
        if crossing is None or both is None:
            reason = dict(self.skipped).get("interaction", "the interaction was not fitted")
            decide = f"runs that vary {self.x_name} and {self.second_name} together: the corners of a grid"
            found.append(Verdict(claim, "undecided", reason, decide))
        else:
            low, high = parameter_intervals(both)["d"]
            said = f"interaction {low:.3g} .. {high:.3g}, 95%; p = {crossing.p_value:.2g}"
            word: Any = "not supported" if crossing.p_value < LEVEL else "undecided"
            decide = "" if crossing.p_value < LEVEL else "runs at the corners of a grid, which weigh most for it"
            found.append(Verdict(claim, word, said, decide))
        near = [fit.name for fit in self.fits if fit.aicc - self.fits[0].aicc < PLAUSIBLE]
        claim = f"form: {self.fits[0].form.formula}"
        if len(near) == 1 and len(self.fits) > 1:
            found.append(
                Verdict(claim, "supported", f"every other law of both axes is {PLAUSIBLE:g} AICc or more behind")
            )
        else:
            others = ", ".join(near[1:]) or "no other law could be fitted"
            found.append(Verdict(claim, "undecided", f"as good: {others}", "a wider range of both axes"))
        return tuple(found)

    @cached_property
    def warnings(self) -> tuple[Any, ...]:
        """Of each plausible law."""
        return tuple(item for fit in self.fits if fit.aicc - self.fits[0].aicc < PLAUSIBLE for item in fit_flags(fit))

    def tree(self) -> dict[str, Any]:
        """Plain values; None stands for an end that the data leave open.

        Keys: version, x, and, y, n, n_configurations, preferred, laws (name, formula, parameters (name, value, ci95),
        r2, aicc, delta_aicc, at_bound, condition, residual_sd), laws_of_one_axis (axis and the same),
        laws_skipped (name, reason), tests (what, f, extra, dof, p_value), verdicts, warnings, excluded.
        """
        tree = {
            "version": VERSION,
            "x": self.x_name,
            "and": self.second_name,
            "y": self.y_name,
            "n": len(self.selection.x),
            "n_configurations": self.sample.n,
            "preferred": self.fits[0].name,
            "laws": [curve_tree(fit, self.delta(fit)) for fit in self.fits],
            "laws_of_one_axis": [{"axis": axis} | curve_tree(fit, self.delta(fit)) for axis, fit in self.alone],
            "laws_skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "tests": [test.__dict__ for test in self.tests],
            "verdicts": [item._asdict() for item in self.verdicts],
            "warnings": [item._asdict() for item in self.warnings],
            "excluded": [{"row": row, "reason": reason} for row, reason in self.selection.excluded],
        }
        return finite(tree)

    def text(self) -> str:
        """Plain lines for a terminal."""
        lines = [
            f"{self.y_name} against {self.x_name} (P) and {self.second_name} (L): {self.sample.n} configurations, "
            f"{len(self.selection.x)} runs"
        ]
        for name, formula, values, r2, delta in self._rows():
            lines.append(f"  {name}: {formula}; {values}; R2 {r2}; AICc {delta} behind the best")
        lines += [f"  {name}: not fitted: {reason}" for name, reason in self.skipped]
        lines += [f"  left out: {row}: {reason}" for row, reason in self.selection.excluded]
        lines += [f"  note: {item.message} [{item.code}]" for item in self.warnings]
        lines += [line for item in self.verdicts for line in item.lines()]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        rows = []
        named = [*((fit.name, fit) for fit in self.fits), *((f"{axis} alone", fit) for axis, fit in self.alone)]
        for name, fit in named:
            values = ", ".join(
                f"{key} {value:.4g} ({low:.4g} .. {high:.4g})" + (" at its bound" if key in fit.at_bound else "")
                for (key, (low, high)), value in zip(parameter_intervals(fit).items(), fit.parameters, strict=True)
            )
            rows.append((name, fit.form.formula, values, f"{fit.r2:.3f}", f"{self.delta(fit):.1f}"))
        return rows

    def write(self, out: str | Path, command: str | None = None) -> dict[str, Path]:
        """Writes axes.json, axes.png, axes.svg, report.html and report.md to `out`."""
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be created ({error.strerror}); choose another folder") from None
        paths = save(self._figure(), folder, "axes")
        paths["json"] = write_atomic(folder / "axes.json", json.dumps(self.tree(), indent=1).encode())
        title = f"{display_name(self.y_name)} against {self.x_name} and {self.second_name}"
        blocks: list[Block] = [
            Picture(paths["svg"], paths["png"], title, "Left: runs and the additive law at each value of the second "
                    "axis. Right: what the best law of both axes says against what was measured.", True),
            Heading("Verdicts"),
            Table(("claim", "verdict", "reason", "would decide it"), [tuple(v) for v in self.verdicts], (0, 2, 3)),
            Heading("Laws"),
            Table(("law", "formula", "parameters (95%)", "R²", "ΔAICc"), self._rows(), (1, 2)),
            Notes(tuple((f"{name}: not fitted: {reason}", None) for name, reason in self.skipped)
                  + tuple((item.message, item.code) for item in self.warnings)
                  + tuple((f"left out: {row}: {reason}", None) for row, reason in self.selection.excluded)),
            Heading("Tests"),
            Table(("of", "F", "degrees of freedom", "p"),
                  [(test.what, f"{test.f:.3g}", f"{test.extra}, {test.dof}", f"{test.p_value:.2g}")
                   for test in self.tests], (0,)),
        ]  # fmt: skip
        if command:
            blocks += [Heading("Again"), Text(command, "code")]
        paths["html"] = write_atomic(folder / "report.html", html_page(title, blocks).encode())
        paths["md"] = write_atomic(folder / "report.md", markdown_page(title, blocks, folder).encode())
        return paths

    def _figure(self) -> Any:
        x, second, y = self.sample.x[:, 0], self.sample.x[:, 1], self.sample.y
        figure, (left, right) = panels(2)
        levels = np.unique(second)
        plane = self.find("plane")
        for i, level in enumerate(levels):
            shade = str(0.05 + 0.75 * (1 - i / max(1, len(levels) - 1)))
            chosen = second == level
            left.scatter(x[chosen], y[chosen], color=shade, edgecolors=INK, s=36, linewidths=0.6, zorder=3,
                         label=f"{self.second_name} {level:g}")  # fmt: skip
            if plane is not None:
                span = np.geomspace(x.min(), x.max(), 50)
                left.plot(span, plane.value(np.column_stack([span, np.full(50, level)])), color=shade, lw=0.9)
        log_axis(left, (1.0,) if x.max() / x.min() > 10**3.5 else (1.0, 3.0))
        left.set_xlabel(display_name(self.x_name))
        left.set_ylabel(display_name(self.y_name))
        left.legend(fontsize=7, frameon=False, ncols=2)
        fitted = self.fits[0].value(self.sample.x)
        right.scatter(fitted, y, color=LINE, edgecolors=INK, s=36, linewidths=0.6)
        ends = [min(fitted.min(), y.min()), max(fitted.max(), y.max())]
        right.plot(ends, ends, color=INK, lw=0.8)
        right.set_xlabel(f"by {self.fits[0].form.formula}")
        right.set_ylabel(f"{display_name(self.y_name)}, measured")
        return figure


def analyse_axes(frame: pd.DataFrame, x: str, second: str, y: str, include: Iterable[str] = ()) -> JointAnalysis:
    """Laws of `y` on log10 of size `x` and on `second` together, over the usable rows of `frame`.

    Runs that differ in seed alone are averaged first, as in `analysis.inference.analysis.analyse`.

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
    column = find_column(frame, second)
    numbers = pd.to_numeric(frame[column], errors="coerce")
    usable = np.isfinite(numbers.to_numpy(dtype=float))
    if not usable.any():
        raise UserError(f"{second}: no cell of column {column} is a number; expected a second size, such as layers")
    selection = select(frame[usable], x, y, include)
    if selection.x_column == column:
        raise UserError(f"{second}: both axes are the column {column}; expected two different ones")
    other = numbers[selection.used.index].to_numpy(dtype=float)
    keys = pd.DataFrame({"configuration": selection.configurations, "second": other})
    groups = keys.groupby(["configuration", "second"], sort=False).ngroup().to_numpy()
    count = int(groups.max()) + 1
    sizes = np.array([[selection.x[groups == k][0], other[groups == k][0]] for k in range(count)])
    means = np.array([selection.y[groups == k].mean() for k in range(count)])
    runs = np.array([int(np.sum(groups == k)) for k in range(count)])
    design = np.column_stack([np.ones(count), np.log10(sizes[:, 0]), sizes[:, 1]])
    check_axes({f"log10({x})": design[:, 1], second: design[:, 2]})
    needed = FORMS["plane"].least_points
    if count < needed:
        raise UserError(f"{y} on {x} and {second}: {count} configurations; a plane needs {needed}; run more sizes")
    if np.ptp(means) == 0:
        raise UserError(f"{y} on {x} and {second}: {y} is the same in every run; check that it was measured")
    seed_sd = seed_spread(selection.y, groups) or 0.0
    weighed = precision(design, means, runs, seed_sd)
    sample = Sample(
        sizes,
        means,
        runs,
        weighed.weights,
        seed_sd,
        len(groups) - count,
        weighed.runs_at_unit_weight,
        0.0,
        f"{x} and {second}",
        y,
    )
    fits, skipped = [], []
    for name in JOINT:
        form = FORMS[name]
        reason = ""
        if count < form.least_points:
            reason = f"{len(form.parameters)} parameters want {form.least_points} configurations, not {count}"
        elif any(len(np.unique(sizes[:, k])) < wanted for k, wanted in enumerate(form.levels)):
            reason = f"wants {' and '.join(map(str, form.levels))} values of the axes"
        elif name == "two-powers" and sizes[:, 1].min() <= 0:
            reason = f"{second} of {sizes[:, 1].min():g} has no power"
        elif name == "interaction" and _one_at_a_time(design):
            reason = "the axes were varied one at a time, never together: the interaction cannot be seen"
        if reason:
            skipped.append((name, reason))
        else:
            fits.append(fit_curve(form, sizes, means, sample.weights))
    alone = (
        (x, fit_curve("log-linear", sizes[:, :1], means, sample.weights)),
        (second, fit_curve("linear", sizes[:, 1:], means, sample.weights)),
    )
    fits.sort(key=lambda fit: (fit.aicc, fit.aic))
    return JointAnalysis(sample, selection, x, second, y, tuple(fits), alone, tuple(skipped))


def _one_at_a_time(design: np.ndarray) -> bool:
    """Whether the product of the axes is a linear function of the axes in these runs."""
    centred = design[:, 1:] - design[:, 1:].mean(axis=0)
    product = centred[:, 0] * centred[:, 1]
    plane = np.column_stack([np.ones(len(product)), centred])
    left = product - plane @ np.linalg.lstsq(plane, product, rcond=None)[0]
    return float(left @ left) <= 1e-9 * max(float(product @ product), 1e-300)


def _f_test(what: str, small: CurveFit, large: CurveFit) -> FTest:
    extra = len(large.parameters) - len(small.parameters)
    f = ((small.rss - large.rss) / extra) / (large.rss / large.dof) if large.rss > 0 else float("inf")
    return FTest(what, f, extra, large.dof, float(stats.f.sf(f, extra, large.dof)))

"""What a reader should be told beside a law's numbers: one sentence each, with a stable code for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.inference.evidence import LawComparison, bend, influence, lack_of_fit
from analysis.laws.curves import CurveFit
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Sample
from analysis.laws.line import Line
from analysis.table.decoders import decoder_notes
from analysis.table.selection import Selection
from analysis.table.trackers import status_of
from drorae.trial.folder import SKIPPED, TrialStatus

FEW_CONFIGURATIONS = 6
"""Below this many the interval rests on so few degrees of freedom that one run can move it."""


class Caution(NamedTuple):
    """A stable code for programs and one sentence for people."""

    code: str
    message: str


def cautions(line: Line) -> list[Caution]:
    """What a reader of `line` should be told, the gravest first."""
    repeats = [] if line.unit == "row" else row_cautions(line.selection)
    return [*_line_cautions(line), *repeats, *_selection_cautions(line.selection), _bend_caution(line)]


def _line_cautions(line: Line) -> Iterator[Caution]:
    sample = line.judged
    low, high = line.slope_ci95
    if low <= 0 <= high:
        message = f"the 95% interval of the slope, {between(low, high)}, includes zero"
        yield Caution("slope-includes-zero", message)
    yield from _influential(line)
    misfit = lack_of_fit(sample, line.judged_curve)
    if misfit is not None and misfit.p < 0.05:
        message = (
            f"configurations scatter about the line more than their {sample.repeats} explain (lack of fit "
            f"{misfit.text}): the law's form is in doubt"
        )
        yield Caution("lack-of-fit", message)
    if misfit is not None and misfit.p_small < 0.05:
        message = (
            f"configurations scatter about the line less than their {sample.repeats} imply (F({misfit.dof[0]:.3g}, "
            f"{misfit.dof[1]:.3g}) = {misfit.f:.3g}, p = {misfit.p_small:.2g} of so small a ratio): intervals "
            f"pool residuals and {sample.repeats}; {sample.repeats} that err alike at all sizes would do that"
        )
        yield Caution("less-scatter-than-seeds", message)
    if sample.n < FEW_CONFIGURATIONS:
        message = f"{sample.n} configurations; at least {FEW_CONFIGURATIONS} advised"
        yield Caution("few-configurations", message)
    decades = float(np.log10(sample.high / sample.low)) if line.law == "log-linear" else 1.0
    if decades < 1:
        message = f"{sample.x_name} spans {decades:.3g} decades; a slope per decade wants one or more"
        yield Caution("short-span", message)
    yield from _repeated_x(sample)
    sample = line.sample
    least, most = int(sample.runs.min()), int(sample.runs.max())
    if least != most:
        message = (
            f"configurations have {least} to {most} runs each; intervals know it, and the line weighs them the same"
        )
        if np.ptp(sample.weights) > 0:
            message = f"configurations have {least} to {most} runs each and weigh "
            message += f"{sample.weights.min():.2g} to {sample.weights.max():.2g}"
        yield Caution("unequal-seeds", message)
    seeds = sample.replication
    if seeds is not None and seeds.trend:
        message = (
            f"the sd between seeds goes from {seeds.sd(sample.low):.3g} to {seeds.sd(sample.high):.3g} over the sizes "
            f"(likelihood ratio, p = {seeds.p:.2g}): intervals follow it" + ", and weights" * seeds.weighed
        )
        yield Caution("unequal-seed-variance", message)


def _influential(line: Line) -> list[Caution]:
    """What the slope would be with one configuration left out at a time."""
    rows = influence(line.judged_curve)
    if any(row.leverage > 1 - 1e-9 for row in rows):
        return [Caution("single-size-carries-slope", "one configuration alone sets the slope: all others share one x")]
    slopes = np.array([row.without[1] for row in rows])
    span = between(slopes.min(), slopes.max())
    if np.any(np.sign(slopes) != np.sign(line.slope)):
        return [Caution("sign-change", f"leaving out one configuration changes the slope's sign (range {span})")]
    worst = int(np.argmax(np.abs(slopes - line.slope)))
    if abs(slopes[worst] - line.slope) <= line.slope_se:
        return []
    message = (
        f"without the configuration at {line.sample.x_name} = {rows[worst].x:.4g} the slope would be "
        f"{significant(slopes[worst], np.ptp(slopes))}: more than one standard error away (leave-one-out range {span})"
    )
    return [Caution("influential-point", message)]


def _repeated_x(sample: Sample) -> list[Caution]:
    values, counts = np.unique(sample.x, return_counts=True)
    if not np.any(counts > 1):
        return []
    first = float(values[counts > 1][0])
    same = np.unique(sample.y[sample.x[:, 0] == first])
    twice = "; equal in y too: the same run listed twice?" if len(same) == 1 else ""
    message = (
        f"points counted as independent share a value of {sample.x_name} "
        f"({int(np.sum(counts > 1))} such values, first {first:.6g}{twice})"
    )
    return [Caution("repeated-x", message)]


def _selection_cautions(selection: Selection) -> Iterator[Caution]:
    used = selection.used
    if "variant" in used.columns and used["variant"].nunique() > 1:
        names = ", ".join(sorted(map(str, used["variant"].dropna().unique())))
        yield Caution("mixed-variants", f"one line through several fusion variants ({names})")
    if "status" in used.columns:
        others = used["status"][used["status"].astype(str).map(status_of) != TrialStatus.FINISHED]
        if len(others):
            names = ", ".join(sorted(set(map(str, others))))
            yield Caution("unfinished-included", f"{len(others)} runs were fitted that are not finished ({names})")
    if unused := used.attrs.get("unused_status"):
        message = f"{', '.join(unused)} looks like a status and was not used; say which column is with --roles status="
        yield Caution("unused-status", message + unused[0])
    if SKIPPED in used.columns:
        for text in used[SKIPPED].dropna().unique():
            if str(text).strip():
                yield Caution("images-skipped", f"the runs were made without some of their images ({text})")
    yield from decoder_cautions(selection)
    if selection.pruned is not None:
        yield Caution("survivors", _survivors(selection, selection.pruned))


def row_cautions(selection: Selection) -> list[Caution]:
    """What a reader should know of rows that are the best of several, or were taken as repeats without saying so."""
    return [*size_cautions(selection), *_best_caution(selection), *_repeat_caution(selection)]


def size_cautions(selection: Selection) -> list[Caution]:
    """What a reader should know of sizes that seeds measured differently."""
    return [
        Caution("size-averaged", f"{name} differs between seeds of one configuration; their mean is its size")
        for name in selection.averaged
    ]


def _best_caution(selection: Selection) -> list[Caution]:
    if not selection.best:
        return []
    counts = [len(item.tried) for item in selection.best]
    least, most = min(counts), max(counts)
    number, flattery = f"{least}" if least == most else f"{least} to {most}", np.abs(selection.flattery).mean()
    message = (
        f"every value is the best of {number} runs over {', '.join(selection.used.attrs['best_of'])}, which flatters "
        f"it: by {flattery:.2g} on average; intervals of slope, intercept and predictions hold with and without that, "
        "and verdicts that hang on it are undecided"
    )
    if alone := sum(len(item.tried) > 1 and not len(item.again) for item in selection.best):
        message += (
            f"; {alone} of {len(selection.best)} were chosen with one seed per setting, which tells too little of that "
            "(nothing where the settings do not matter): run two seeds or more of every setting"
        )
    return [Caution("best-of", message)]


def _repeat_caution(selection: Selection) -> list[Caution]:
    keys = pd.DataFrame({"configuration": selection.configurations, "seed": selection.seeds, "y": selection.y})
    again = keys.duplicated(["configuration", "seed"])
    if not again.any():
        return []
    twice = int(keys.duplicated().sum())
    equal = f"; {twice} of them equal in {selection.y_name} too: the same run listed twice?" if twice else ""
    if any(selection.seeds):
        message = (
            f"{int(again.sum())} rows have the configuration and seed of another; they count as its repeats{equal}"
        )
        return [Caution("repeated-seed", message)]
    message = (
        f"{len(keys)} rows without seeds are {keys['configuration'].nunique()} configurations: rows of one "
        f"{selection.x_name} count as repeats of one configuration{equal}"
    )
    return [Caution("repeats-without-seeds", message)]


def decoder_cautions(selection: Selection) -> list[Caution]:
    """What a reader should know of the runs' phase-1 decoders."""
    return [Caution(*note) for note in decoder_notes(selection.used)]


def _survivors(selection: Selection, pruned: pd.DataFrame) -> str:
    """How much early stopping took from a law: it keeps the runs whose loss fell fast, which are not a fair draw."""
    message = f"{len(pruned)} of {len(pruned) + len(selection.used)} runs were stopped early for their loss"
    # A run that was stopped has no result, and so no count of parameters.
    size = "expert_hidden_dim" if "expert_hidden_dim" in pruned.columns else selection.x_column
    if size in selection.used.columns:
        sizes = set(pruned[size].dropna())
        lost = sizes - set(selection.used[size])
        message += f", at {len(sizes)} sizes" + (f" ({len(lost)} of them lost all of theirs)" if lost else "")
    return f"{message}: this is the law of the survivors; run the sweep without early stopping to be rid of the bias"


def _bend_caution(line: Line) -> Caution:
    """What these points can say about saturation."""
    found = bend(line.judged, line.law)
    if found is None:
        return Caution("saturation", "these sizes cannot show a bend: absence of saturation cannot be claimed")
    if found.resolved:
        message = (
            f"the points bend: a quadratic term of {found.bend:.3g} (95% CI {between(found.low, found.high, 3)}) "
            "is wanted beside the line; do not extrapolate it"
        )
        return Caution("curvature", message)
    message = (
        f"any quadratic term between {found.low:.3g} and {found.high:.3g} beside the line is compatible with these "
        f"{line.judged.n} points; the verdict on saturation says what that means"
    )
    return Caution("saturation", message)


def few_for_aicc(comparison: LawComparison) -> list[Caution]:
    """Leave-one-out errors, where AICc cannot choose a law of three parameters."""
    if not comparison.few:
        return []
    comparison = comparison.judge
    errors = ", ".join(f"{fit.name} {fit.loo_rmse:.3g}" for fit in comparison.fits)
    message = (
        f"with {comparison.sample.n} configurations AICc all but excludes laws of three parameters; root mean square "
        f"errors of each configuration predicted from the rest: {errors}"
    )
    return [Caution("few-for-aicc", message)]


def fit_flags(fit: CurveFit) -> Iterator[Caution]:
    """What is wrong with one law's fit: a parameter at its bound, conditioning, correlation, leverage."""
    for name in fit.at_bound:
        message = f"{fit.name}: {name} went to the end of its search; these sizes do not pin it down"
        yield Caution("at-bound", message)
    if fit.condition > 1e3:
        yield Caution("ill-conditioned", f"{fit.name}: condition number {fit.condition:.2g} of the Jacobian")
    if fit.correlation > 0.95:
        message = f"{fit.name}: parameters correlate by {fit.correlation:.3f}; only combinations of them are known"
        yield Caution("correlated-parameters", message)
    heavy = next((item for item in influence(fit) if item.leverage > 0.9), None)
    if heavy is not None:
        through = f"the fit goes through the point at {heavy.x:.4g} whatever it is (leverage {heavy.leverage:.2f})"
        yield Caution("leverage", f"{fit.name}: {through}")

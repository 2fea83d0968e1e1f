"""The law that was asked for, by the method that was asked for: its parameters, its floor, what the data say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from analysis.inference.axes import JointAnalysis
from analysis.inference.evidence import PLAUSIBLE, lack_of_fit
from analysis.inference.verdicts import Verdict, judged_at
from analysis.laws.bootstrap import Bootstrap, Progress, Resampling, bootstrap
from analysis.laws.curves import CurveFit, Huber
from analysis.laws.digits import between, share, significant
from analysis.laws.forms import FORMS, OFFSET, find_form
from analysis.laws.intervals import Interval, Sample, law_interval, new_point_interval, parameter_intervals
from analysis.laws.line import Law
from drorae.errors import UserError

LINES: tuple[Law, ...] = ("log-linear", "linear")
"""Laws that every analysis fits."""


@dataclass(frozen=True)
class Asking:
    """Which law leads, and how it is fitted."""

    law: str = "log-linear"
    """A name of `analysis.laws.forms.FORMS`."""
    method: Literal["ls", "huber"] = "ls"
    """ls: least squares; huber: a Huber loss, with bootstrap intervals."""
    loss: Huber = field(default_factory=Huber)
    """Of method huber."""
    resampling: Resampling = "pairs"
    resamples: int = 1000
    seed: int = 0
    """Of the bootstrap."""

    @property
    def special(self) -> bool:
        """Whether it asks for more than the line of least squares."""
        return self.method != "ls" or self.law not in LINES

    @property
    def line(self) -> Law:
        """The line that stands beside the law."""
        return "linear" if self.law == "linear" else "log-linear"

    def check(self, axes: int) -> None:
        """Refuses what cannot be asked of so many axes.

        Raises:
            UserError: no such law or method, or a law of other axes.
        """
        if self.method not in ("ls", "huber"):
            raise UserError(f"method {self.method}: no such method; methods: ls, huber")
        if find_form(self.law).axes != axes:
            known = ", ".join(name for name, form in FORMS.items() if form.axes == axes)
            remedy = "--and names the second" if axes == 1 else "leave out --and for it"
            raise UserError(
                f"law {self.law}: not of {axes} {'axis' if axes == 1 else 'axes'} ({remedy}); laws: {known}"
            )


class Floor(NamedTuple):
    """The value that a law with offset E levels off at: a one-sided 95% bound, infinite where the data give none."""

    side: Literal["at least", "at most"]
    bound: float
    estimate: float

    @property
    def text(self) -> str:
        """The bound in words."""
        if np.isfinite(self.bound):
            bound = significant(self.bound, abs(self.bound - self.estimate), 5)
            return f"E: {self.side} {bound}, 95%, one-sided"
        side = "lower" if self.side == "at least" else "upper"
        return f"E: no {side} bound, 95%, one-sided: these data are compatible with no levelling off at all"


@dataclass(frozen=True, eq=False)
class AskedLaw:
    """A law fitted as it was asked for."""

    sample: Sample
    asking: Asking
    fit: CurveFit
    resampled: Bootstrap | None
    """None where intervals are those of least squares."""

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals of the parameters by name."""
        return self.resampled.intervals if self.resampled is not None else parameter_intervals(self.fit)

    @cached_property
    def floor(self) -> Floor | None:
        """What the law levels off at; None of a law without an offset.

        A lower bound of what a falling metric stops above, an upper one of what a rising metric stops below.
        """
        if OFFSET not in self.intervals:
            return None
        estimate = float(self.fit.parameters[self.fit.form.parameters.index(OFFSET)])
        low, high = (
            parameter_intervals(self.fit, level=0.9)[OFFSET]
            if self.resampled is None
            else self.resampled.one_sided(OFFSET)
        )
        falls = float(np.mean(self.fit.y)) >= estimate
        return Floor("at least", low, estimate) if falls else Floor("at most", high, estimate)

    def law_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval of the law itself at sizes `at`."""
        return law_interval(self.fit, at) if self.resampled is None else self.resampled.law_interval(at)

    def new_point_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval of a new point like those fitted at sizes `at`."""
        return new_point_interval(self.fit, at) if self.resampled is None else self.resampled.new_point_interval(at)

    @property
    def how(self) -> str:
        """The method in words."""
        loss = self.fit.loss
        if self.asking.method == "ls" or loss is None:
            return "least squares"
        return f"Huber's loss of {loss.residuals} residuals, delta {loss.delta:.4g}"

    @property
    def basis(self) -> str:
        """What the intervals rest on, in words."""
        if self.resampled is None:
            return "profile likelihood" if self.fit.form.curved else "t"
        kind = {"pairs": "bootstrap of pairs", "residuals": "bootstrap of residuals"}[self.resampled.kind]
        return (
            f"{kind} over {self.fit.n} configurations, {self.resampled.resamples} resamples, seed {self.resampled.seed}"
        )

    @property
    def values(self) -> str:
        """The parameters with their intervals."""
        return ", ".join(
            f"{name} = {significant(value, high - low, 5)} ({between(low, high)})"
            + (", at its bound" if name in self.fit.at_bound else "")
            for (name, (low, high)), value in zip(self.intervals.items(), self.fit.parameters, strict=True)
        )

    def lines(self, y_name: str, rejected: bool = False) -> list[str]:
        """For a terminal: the law, its parameters, its floor."""
        fit = self.fit
        axes = f" (axes: {self.sample.x_name})" if fit.form.axes > 1 else ""
        follows = "the law asked for, not supported" if rejected else "the law asked for"
        lines = [
            f"{y_name}: {fit.name}, {follows}: {fit.form.formula}{axes}; {self.how}; R2 {share(fit.r2)}",
            f"  {self.values}; 95% CI ({self.basis})",
        ]
        return lines + ([f"  {self.floor.text} ({self.basis})"] if self.floor is not None else [])


def ask_law(sample: Sample, asking: Asking, progress: Progress | None = None) -> AskedLaw:
    """Fits the law that is asked for.

    Args:
        sample: the configurations.
        asking: law and method.
        progress: called with the resamples done and in all.

    Raises:
        UserError: too few configurations or sizes for the law, or what `fit_curve` and `bootstrap` refuse.
    """
    form = find_form(asking.law)
    asking.check(sample.x.shape[1])
    if sample.n < form.least_points:
        wanted = f"{len(form.parameters)} parameters want {form.least_points} configurations, not {sample.n}"
        raise UserError(f"law {form.name}: {wanted}; run more sizes or ask for a law of fewer parameters")
    for axis, wanted_levels in enumerate(form.levels):
        levels = len(np.unique(sample.x[:, axis]))
        if levels < wanted_levels:
            raise UserError(f"law {form.name}: wants {wanted_levels} different sizes on each axis, not {levels}")
    if asking.method == "ls":
        return AskedLaw(sample, asking, sample.fit(form), None)
    fit = sample.fit(form, "huber", asking.loss)
    return AskedLaw(sample, asking, fit, bootstrap(fit, asking.resamples, asking.resampling, asking.seed, progress))


class JointLaw(NamedTuple):
    """A law of two axes that was asked for, and what the data say of it."""

    asked: AskedLaw
    verdict: Verdict


def ask_joint(found: JointAnalysis, asking: Asking, progress: Progress | None = None) -> JointLaw:
    """Fits the law of two axes that is asked for, and judges it beside the laws of either axis and of both.

    Raises:
        UserError: see `ask_law`.
    """
    asked = ask_law(found.sample, asking, progress)
    return JointLaw(asked, form_verdict(asked, [*found.fits, *(fit for _, fit in found.alone)]))


def joint_lines(law: JointLaw | None) -> list[str]:
    """The same for a terminal; nothing where no law was asked for."""
    if law is None:
        return []
    asked, verdict = law
    return [*asked.lines(asked.sample.y_said, verdict.verdict == "not supported"), *verdict.lines()]


@judged_at(f"5% for trend and lack of fit; rival laws {PLAUSIBLE:g} AICc")
def form_verdict(asked: AskedLaw, rivals: Sequence[CurveFit]) -> Verdict:
    """Judges whether the points may follow the form of the law that was asked for.

    Not supported: another form is better by 4 AICc or more, both by least squares, and not for its fewer parameters
    alone. Undecided: for those alone; no trend is resolved (F test against a constant); or seeds show that the
    configurations do not lie on the law.

    rivals: the other laws by least squares.
    """
    sample, form = asked.sample, asked.fit.form
    claim = f"{form.name}: {sample.y_said} follows {form.formula}"
    own = asked.fit if asked.asking.method == "ls" else sample.fit(form)
    others = sorted((fit for fit in rivals if fit.form.terms is not form.terms), key=lambda fit: fit.aicc)
    finite = bool(others) and np.isfinite(others[0].aicc) and np.isfinite(own.aicc)
    if finite and own.aicc - others[0].aicc >= PLAUSIBLE:
        return _behind(claim, own, others[0])
    mean = np.average(own.y, weights=own.weights)
    about, extra = float(np.sum(own.weights * (own.y - mean) ** 2)), len(own.parameters) - 1
    f = (about - own.rss) / extra / (own.rss / own.dof) if own.rss > 0 else np.inf
    p = float(stats.f.sf(f, extra, own.dof))
    said = f"F({extra}, {own.dof}) = {f:.3g} against a constant, p = {p:.2g}"
    if p >= 0.05:
        return Verdict(
            claim, "undecided", f"no trend is resolved: {said}", "more configurations, or a wider range of sizes"
        )
    misfit = lack_of_fit(sample, own)
    if misfit is not None and misfit.p < 0.05:
        reason = f"configurations scatter about the law more than their seeds do ({misfit.text})"
        return Verdict(
            claim, "undecided", reason, "more sizes between those measured, which show a form or show scatter"
        )
    near = [fit.name for fit in others if not np.isfinite(own.aicc) or fit.aicc - own.aicc < PLAUSIBLE]
    if near:
        said += f"; {', '.join(near)} cannot be told from it (within {PLAUSIBLE:g} AICc)"
        said += ", so this is a law that fits, not the only one"
    return Verdict(claim, "supported", f"{said}; said of the sizes measured")


def _behind(claim: str, own: CurveFit, best: CurveFit) -> Verdict:
    """Judges a law that is 4 AICc or more behind another: by the misfit itself, or for its parameters."""
    gap = f"{own.aicc - best.aicc:.1f} AICc"
    misfit = own.n * float(np.log(max(own.rss, 1e-300) / max(best.rss, 1e-300)))
    if misfit >= PLAUSIBLE:
        return Verdict(claim, "not supported", f"{best.name} fits better by {gap}")
    reason = f"{best.name} fits as well with fewer parameters ({gap} ahead, for those)"
    return Verdict(claim, "undecided", reason, "a wider range of sizes, over which the two laws part")

"""Verdicts in plain words: what the data say of a claim, and where they say nothing, what would make them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, ParamSpec

import numpy as np
from scipy import stats

from analysis.inference.evidence import PLAUSIBLE, LawComparison, bend, influence, lack_of_fit
from analysis.inference.predict import forecast
from analysis.laws.digits import between, fixed, significant
from analysis.laws.intervals import Interval, Sample, parameter_intervals
from analysis.laws.line import Law
from drorae.errors import UserError

Judging = ParamSpec("Judging")

Word = Literal["supported", "not supported", "undecided"]

NEARLY_STRAIGHT = 0.2
"""Loss of slope over the data's span that is still called none: a fifth."""


class DecoderSlope(NamedTuple):
    """The slope's 95% interval for new decoders, and how many it rests on."""

    ends: Interval
    decoders: int


class Verdict(NamedTuple):
    """A claim and what the data say of it. Comparisons of designs return the same tuple."""

    claim: str
    verdict: Word
    reason: str
    would_decide: str = ""
    """What would decide it; empty where it is decided."""
    level: str = ""
    """The level of the tests that decide it, and which they are."""

    def lines(self, indent: str = "  ") -> list[str]:
        """For a terminal: what is said at what level, and what would decide it."""
        said = [f"{indent}{self.verdict.upper()}: {self.claim}; {self.reason} [level: {self.level}]"]
        return said + ([f"{indent}  would decide it: {self.would_decide}"] if self.would_decide else [])


def judged_at(level: str) -> Callable[[Callable[Judging, Verdict]], Callable[Judging, Verdict]]:
    """Marks a judge: its verdicts carry this level."""

    def mark(judge: Callable[Judging, Verdict]) -> Callable[Judging, Verdict]:
        @functools.wraps(judge)
        def judged(*args: Judging.args, **kwargs: Judging.kwargs) -> Verdict:
            return judge(*args, **kwargs)._replace(level=level)

        return judged

    return mark


def verdicts(
    comparison: LawComparison, law: Law = "log-linear", of_new: DecoderSlope | None = None
) -> tuple[Verdict, ...]:
    """Judges the claims that every fit invites: a trend like `law`'s, no saturation, its own back-test.

    Sizes without a logarithm carry no verdict.

    Args:
        comparison: the laws.
        law: log-linear or linear.
        of_new: the slope for new decoders, where it decides; by default the law's own.
    """
    if comparison.sample.low <= 0:
        return ()
    found = [trend(comparison, law, of_new), no_saturation(comparison, of_new)]
    if comparison.back_tests:
        found.append(predicts_its_largest(comparison))
    return tuple(found)


@judged_at(f"5% for slope, bend and lack of fit; rival laws {PLAUSIBLE:g} AICc")
def trend(comparison: LawComparison, law: Law = "log-linear", of_new: DecoderSlope | None = None) -> Verdict:
    """Judges whether the metric follows log10 of the size (linear: the size) over the sizes measured, and no farther.

    Not supported: the quadratic term beside the line leaves out zero, or another law is better by 4 AICc or more.
    Undecided: no slope is resolved, one configuration sets its sign, or seeds show that the configurations do not lie
    on the line. of_new: see `verdicts`.
    """
    sample = comparison.sample
    term, per = (f"log10({sample.x_name})", "decade") if law == "log-linear" else (sample.x_name, "unit")
    claim = f"{law}: {sample.y_said} follows {term} from {_sizes(sample)}"
    line = comparison.get(law)
    low, high = of_new.ends if of_new else parameter_intervals(line)["slope"]
    slope = f"slope {significant(line.parameters[1], high - low)} per {per}, 95% interval {between(low, high)}"
    slope += f" for new decoders, of {of_new.decoders}" if of_new else ""
    bent = bend(sample, law)
    if bent is not None and bent.resolved:
        return Verdict(claim, "not supported", f"the points bend: {bent.text}")
    if comparison.delta(line) >= PLAUSIBLE:
        better = f"{comparison.delta(line):.1f} {comparison.criterion}"
        reason = f"{comparison.preferred.name} fits better by {better}"
        return Verdict(claim, "not supported", reason)
    if low <= 0 <= high:
        factor = ((high - low) / 2 / max(abs(float(line.parameters[1])), 1e-300)) ** 2
        count, what = (of_new.decoders, "decoders") if of_new else (sample.n, "configurations")
        more = f"about {max(math.ceil(factor * count), count + 1)} {what} like these {count}"
        more = more if factor < 50 else "far more data"
        return Verdict(claim, "undecided", f"no trend is resolved: {slope}", f"{more}, or a wider range of sizes")
    without = [item.without[1] for item in influence(line)]
    if min(without) <= 0 <= max(without):
        reason = f"{slope}, but one configuration sets its sign"
        return Verdict(claim, "undecided", reason, "more configurations at the sizes that carry the slope")
    misfit = lack_of_fit(sample, line)
    if misfit is not None and misfit.p < 0.05:
        reason = (
            f"{slope}, but configurations scatter about the line more than their {sample.repeats} do ({misfit.text})"
        )
        more = "more sizes between those measured, which show a form or show scatter"
        return Verdict(claim, "undecided", reason, more)
    others = [fit.name for fit in comparison.plausible if fit.name != law]
    if others:
        within = f"within {PLAUSIBLE:g} {comparison.criterion}"
        slope += f"; {', '.join(others)} cannot be told from it ({within}), so this is a trend, not the form"
    foreseen = min(comparison.fits, key=lambda fit: fit.loo_rmse)
    if comparison.few and len(foreseen.parameters) > 2:
        slope += f"; {foreseen.name} predicts left-out configurations better, which AICc cannot say of {sample.n}"
    trusted = f"trusted for predictions to {comparison.horizon.high:.4g}, not decided beyond"
    return Verdict(claim, "supported", f"{slope}; said of the sizes measured, {trusted}")


@judged_at("5% for the bend, 2.5% for the most that an offset takes")
def no_saturation(comparison: LawComparison, of_new: DecoderSlope | None = None) -> Verdict:
    """Judges whether the metric keeps improving at an undiminished rate per decade over the sizes measured.

    Appraisal by the power law with offset, whose slope per decade shrinks by the factor 10^-(b decades) over the data,
    b -> 0 being log-linear. Supported, and then of the sizes measured alone: even the upper 95% limit of b takes no
    more than a fifth. Not supported: the points bend towards an asymptote, the quadratic term's interval leaving out
    zero. of_new: see `verdicts`.
    """
    sample = comparison.sample
    claim = f"no saturation: {sample.y_said} changes at one rate per decade from {_sizes(sample)}"
    line = comparison.get("log-linear")
    span = math.log10(sample.high / sample.low)
    bent = bend(sample)
    if bent is None:
        reason = f"{sample.n} configurations cannot show a bend"
        return Verdict(claim, "undecided", reason, "at least 5 configurations of 4 different sizes")
    slope = float(line.parameters[1])
    slope_low, slope_high = of_new.ends if of_new else parameter_intervals(line)["slope"]
    if bent.resolved:
        ends = " to ".join(f"{bent.slope_at(math.log10(size)):.3g}" for size in (sample.low, sample.high))
        reason = f"the slope goes from {ends} per decade over the data ({bent.text})"
        # Saturation bends against the trend.
        if np.sign(bent.bend) != np.sign(slope):
            return Verdict(claim, "not supported", reason)
        reason += ": neither levelling off nor one rate"
        return Verdict(claim, "undecided", reason, "sizes beyond the largest, where it levels off if it ever does")
    rival = comparison.rival or comparison.get("power-offset")
    intervals = parameter_intervals(rival)
    upper = intervals["b"].high
    loss = 1 - 10 ** (-upper * span) if math.isfinite(upper) else 1.0
    offset = "a power law with offset"
    if (slope_low > 0 or slope_high < 0) and loss <= NEARLY_STRAIGHT:
        reason = f"{offset} may lose at most {loss:.0%} of its slope over the data"
        return Verdict(claim, "supported", f"{reason}; it goes on beyond the sizes measured only if no break follows")
    reason = f"{offset} may lose up to {loss:.0%} of its slope over these {span:.2g} decades"
    reason += _asymptote(intervals["E"], float(line.value(np.array([sample.high]))[0]), rising=slope > 0)
    delta = comparison.delta(rival)
    few = f"{sample.n} configurations are too few to weigh that law"
    reason += f"; that law: {delta:.1f} {comparison.criterion} behind the best" if math.isfinite(delta) else f"; {few}"
    wanted = abs(slope) * NEARLY_STRAIGHT / (2 * span)
    # Never the design at hand, which did not decide it.
    factor = max((bent.high - bent.low) / 2 / wanted, math.sqrt(1 + 1 / sample.n), 1.1)
    decide = (
        f"a quadratic term known to within {wanted:.2g}, which takes about {math.ceil(factor**2 * sample.n)} "
        f"configurations over the same range, or these {sample.n} over {span * math.sqrt(factor):.2g} decades; "
        "see drorae plan"
    )
    return Verdict(claim, "undecided", reason, decide)


def _asymptote(ends: Interval, reached: float, rising: bool) -> str:
    """The asymptote lies ahead of the trend: above what it has reached where it rises, below where it falls."""
    nearest, farthest = ends if rising else reversed(ends)
    if not math.isfinite(nearest):
        return ""
    if (nearest <= reached) == rising:
        return " and have levelled off by the largest size"
    return f", with an asymptote as near as {nearest:.3g}" + ("" if math.isfinite(farthest) else " or nowhere")


@judged_at("5% for the count of misses")
def predicts_its_largest(comparison: LawComparison) -> Verdict:
    """Judges whether the smaller sizes predicted the larger ones, by how many intervals of the envelope held.

    Not supported: more of them missed than of 95% intervals would in 95 of 100 such back-tests (binomial).
    Undecided: some missed, and as many might of intervals that hold every second time; or they are too wide to miss.
    """
    tests = comparison.back_tests
    envelope = tests[0]
    count = len(envelope.held_out)
    claim = f"the {envelope.trained} smallest predict the {count} largest"
    reason = "; ".join(test.text for test in tests if test.law in ("envelope", "log-linear", "linear"))
    widths = [item.high - item.low for item in envelope.held_out]
    reason += f"; intervals {min(widths):.3g} to {max(widths):.3g} wide"
    reason += f"; {envelope.misses} of {count} missed, chance allows {envelope.allowed}"
    if envelope.failed:
        return Verdict(claim, "not supported", reason)
    if not envelope.decided:
        more = "sizes beyond the largest, predicted before they are run"
        return Verdict(claim, "undecided", f"{reason}, but {count} are too few to tell", more)
    # An interval wider than all that was ever seen holds whatever comes.
    if min(widths) > float(np.ptp(comparison.sample.y)):
        more = "more configurations among the smaller sizes, until the intervals could be missed"
        return Verdict(claim, "undecided", reason + ", wider than the whole range of values: too wide to fail", more)
    return Verdict(claim, "supported", reason)


@judged_at("2.5%, one end of the law's 95% interval")
def value_at(comparison: LawComparison, value: float, at: float) -> Verdict:
    """Judges whether the metric at size `at` is `value` or better, better being the way the trend goes."""
    sample = comparison.sample
    falls = float(comparison.get("log-linear").parameters[1]) <= 0
    claim = f"{sample.y_said} {'at most' if falls else 'at least'} {value:.4g} at {sample.x_name} = {at:.4g}"
    made = forecast(comparison, at, extrapolate=True)
    low, high = made.of_law
    reason = f"the plausible laws put their mean there at {between(low, high)}"
    if not made.trusted:
        reason += f", {made.decades_beyond:.2g} decades beyond the data and beyond what is trusted"
        return Verdict(claim, "undecided", reason, f"runs at {at:.4g}, or near enough to have it within the horizon")
    if high <= value if falls else low >= value:
        return Verdict(claim, "supported", reason)
    if low > value if falls else high < value:
        return Verdict(claim, "not supported", reason)
    decide = f"more runs at or beside {sample.x_name} = {at:.4g}, up to {comparison.horizon.high:.4g}"
    return Verdict(claim, "undecided", reason, decide)


def _sizes(sample: Sample) -> str:
    """The smallest and the largest size, in words."""
    return between(sample.low, sample.high).replace(" .. ", " to ")


def printed_line(comparison: LawComparison, slope: float, intercept: float) -> tuple[Verdict, ...]:
    """Judges whether a published line, and each of its numbers, belongs to these points.

    The line by the joint F test of slope and intercept; each number by whether the fit rounds to it.
    """
    fit = comparison.get("log-linear")
    sample = comparison.sample
    phi = fit.form.basis(fit.x, np.zeros(0))[0] * np.sqrt(fit.weights)[:, None]
    away = np.array([intercept, slope]) - fit.parameters
    if fit.rss <= 0:
        raise UserError(f"{sample.y_name} on {sample.x_name}: the points lie on a line; nothing to test")
    f = float(np.sum((phi @ away) ** 2)) / 2 / fit.residual_sd**2
    p = float(stats.f.sf(f, 2, fit.dof))
    claim = f"these points give {sample.y_said} = {slope:g} log10({sample.x_name}) + {intercept:g}"
    reason = f"least squares gives {fixed(fit.parameters[1])} and {fixed(fit.parameters[0])}; "
    reason += f"joint test F(2, {fit.dof}) = {f:.3g}, p = {p:.2g}"
    middle = 10 ** float(np.average(np.log10(fit.x[:, 0]), weights=fit.weights))
    off = intercept + slope * math.log10(middle) - float(fit.value(np.array([middle]))[0])
    if p < 0.05:
        reason += f": the printed line lies {abs(off):.3g} {'above' if off > 0 else 'below'} the points"
    whole = Verdict(claim, "supported" if p >= 0.05 else "not supported", reason, level="5%, F test")
    best = float(np.average(sample.y - slope * np.log10(sample.x[:, 0]), weights=fit.weights))
    claim = f"the printed intercept {intercept:g} belongs to the fit"
    digits = max(len(f"{intercept:g}".partition(".")[2]), 0)
    belongs = round(float(fit.parameters[0]), digits) == round(intercept, digits)
    reason = f"the fit's intercept is {fixed(fit.parameters[0])}; with the printed slope {slope:g} it would be "
    reason += fixed(best)
    return whole, Verdict(claim, "supported" if belongs else "not supported", reason, level="none: digits compared")

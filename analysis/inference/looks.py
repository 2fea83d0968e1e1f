"""What may be said while runs still come in: a verdict that holds over all the looks that are taken at it."""

from __future__ import annotations

import math

from scipy import stats

from analysis.inference.analysis import Analysis
from analysis.inference.evidence import bend
from analysis.inference.verdicts import NEARLY_STRAIGHT, Verdict, no_saturation, trend
from analysis.laws.intervals import parameter_intervals

LEVEL = 0.05
"""Of all looks together."""
TREND, NO_SATURATION = "log-linear", "no-saturation"
DECIDING = (TREND, NO_SATURATION)
"""Verdicts that a sweep can be ended by: that of the line (of layers where only these vary), and that of saturation."""


def decided(analysis: Analysis, name: str, looks: int) -> Verdict | None:
    """Returns a verdict that is decided, and by tests at a Bonferroni share of 5% too; None of any other.

    A verdict that the report, at 5%, would not give of the same runs is none either, so that both agree. AICc is no
    test: a line that only another law's AICc speaks against is not decided.

    Args:
        analysis: of the runs so far.
        name: one of `DECIDING`.
        looks: how often it is asked at most, this time among them.
    """
    comparison, of_new = analysis.comparison.judge, analysis.draws.deciding
    if comparison.sample.low <= 0:
        return None
    of_line = name == TREND
    verdict = trend(comparison, analysis.line.law, of_new) if of_line else no_saturation(comparison, of_new)
    if verdict.verdict == "undecided":
        return None
    share = LEVEL / looks
    held = _speaks_for(analysis, name, share) if verdict.verdict == "supported" else _bends(analysis, name, share)
    if not held:
        return None
    counted = f"{looks} look{'s' * (looks > 1)}"
    return verdict._replace(level=f"5% for slope and bend over {counted}, {100 * share:.3g}% each time")


def _bends(analysis: Analysis, name: str, share: float) -> bool:
    """Whether the points bend away from the line at this level."""
    law = analysis.line.law if name == TREND else "log-linear"
    bent = bend(analysis.comparison.judge.sample, law)
    return bent is not None and bent.p < share


def _speaks_for(analysis: Analysis, name: str, share: float) -> bool:
    """Whether the slope is resolved at this level and, of saturation, an offset takes too little of it to count."""
    comparison, of_new = analysis.comparison.judge, analysis.draws.deciding
    law = analysis.line.law if name == TREND else "log-linear"
    low, high = parameter_intervals(comparison.get(law), level=1 - share)["slope"]
    if of_new is not None:
        # Its t has at least so many degrees of freedom: with fewer the interval grows faster.
        wider = stats.t.ppf([1 - share / 2, 0.975], of_new.decoders - 1)
        middle, half = sum(of_new.ends) / 2, (of_new.ends.high - of_new.ends.low) / 2 * float(wider[0] / wider[1])
        low, high = middle - half, middle + half
    if low <= 0 <= high:
        return False
    if name == TREND:
        return True
    sample = comparison.sample
    upper = parameter_intervals(comparison.rival or comparison.get("power-offset"), level=1 - share)["b"].high
    return 1 - (sample.high / sample.low) ** -upper <= NEARLY_STRAIGHT if math.isfinite(upper) else False

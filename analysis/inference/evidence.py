"""What speaks for and against a law: rival laws and how far they agree, back-tests, lack of fit, influence, bends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.laws.curves import CurveFit
from analysis.laws.digits import between, significant
from analysis.laws.forms import find_form
from analysis.laws.intervals import Sample, run_interval
from analysis.laws.line import Law, regress
from analysis.laws.noise import Uncertainty
from drorae.errors import UserError

PLAUSIBLE = 4.0
"""Laws less than this much AICc behind the best are kept beside it: Burnham and Anderson (2002), section 2.6, call a
difference of 4 to 7 considerably less support."""

FEW_FOR_AICC = 7
"""Up to so many points leave-one-out errors stand beside AICc."""

HORIZON = 0.3
"""Decades beyond the data that are trusted without further evidence. There, with a log-linear law fitted to a truth
that saturates, 95% prediction intervals cover .58 to .98, one decade out .00 to .69 (results/coverage)."""

BENT = 0.5
"""Where the points bend, the law changes within the data already: so much of the usual horizon is left."""

FARTHEST = 1.0
"""Decades beyond the data that are trusted at most, and never more than half of what the data span."""

AGREEMENT = 1.5
"""The laws agree where their envelope is at most this many times as wide as the best law's own interval."""

CANDIDATES = ("log-linear", "power", "power-offset", "log-quadratic", "shifted-power", "broken-power")


@dataclass(frozen=True)
class Horizon:
    """The sizes that predictions are trusted for."""

    low: float
    high: float
    decades: float
    """How far beyond the largest size measured."""
    rule: str


@dataclass(frozen=True)
class LawComparison:
    """Laws fitted to the same points, the best AICc first, and laws that these points cannot carry."""

    sample: Sample
    fits: tuple[CurveFit, ...]
    skipped: tuple[tuple[str, str], ...]
    """(law, why it was not fitted)."""
    by: LawComparison | None = None
    """The same laws through the points that judge them, where those are others: means over decoders."""

    @property
    def judge(self) -> LawComparison:
        """The laws through the points that AICc, verdicts, back-tests and the horizon are of."""
        return self.by or self

    def judged(self, fit: CurveFit) -> CurveFit:
        """The same law through the points that judge it."""
        return self.judge.get(fit.name)

    def of_points(self, sample: Sample) -> LawComparison:
        """The same laws fitted to other points, which values and intervals are of, and judged by these."""
        return replace(self, sample=sample, fits=tuple(sample.fit(fit.form) for fit in self.fits), by=self)

    @property
    def preferred(self) -> CurveFit:
        """The law with the least AICc."""
        return self.fits[0]

    def delta(self, fit: CurveFit) -> float:
        """How much AICc a law is behind the best; plain AIC at four points, where AICc divides by zero."""
        best, own = self.judged(self.preferred), self.judged(fit)
        return own.aicc - best.aicc if np.isfinite(best.aicc) else own.aic - best.aic

    def behind(self, fit: CurveFit) -> str:
        """`delta` as it is printed; words where so few points have no AICc for the law."""
        return said_behind(self.delta(fit))

    @property
    def few(self) -> bool:
        """Whether AICc all but excludes a law of three parameters: with 5, 6, 7 points it costs inf, 30, 14 more."""
        return self.judge.sample.n <= FEW_FOR_AICC and any(len(fit.parameters) > 2 for fit in self.fits)

    @property
    def criterion(self) -> str:
        """What `delta` is a difference of."""
        return "AICc" if np.isfinite(self.judged(self.preferred).aicc) else "AIC"

    @property
    def plausible(self) -> tuple[CurveFit, ...]:
        """Laws less than 4 AICc behind the best."""
        return tuple(fit for fit in self.fits if self.delta(fit) < PLAUSIBLE)

    @cached_property
    def rival(self) -> CurveFit | None:
        """The power law with offset, which can level off, however little AICc likes its third parameter.

        None where these points cannot carry it.
        """
        sample = self.sample
        if sample.n < 4 or len(np.unique(sample.x)) < 3 or sample.low <= 0:
            return None
        return self.get("power-offset")

    def laws_at(self, at: float) -> tuple[CurveFit, ...]:
        """The laws whose envelope is given at a size: the plausible ones; outside the sizes measured, the rival too.

        There it decides: with a truth that saturates (n = 8, sd .02) the envelope of the plausible laws alone covered
        .88 at 0.3 decade beyond the data and .85 at the end of the horizon, with the rival .95 at both (250
        replications; with the rival in results/coverage).
        """
        return self.plausible if self._inside(at) else self.laws_beyond

    def _inside(self, at: np.ndarray | float) -> np.ndarray:
        """Whether sizes lie within those measured."""
        return np.asarray((self.sample.low * (1 - 1e-9) <= at) & (at <= self.sample.high * (1 + 1e-9)))

    @property
    def laws_beyond(self) -> tuple[CurveFit, ...]:
        """The plausible laws and their rival."""
        return tuple(dict.fromkeys((*self.plausible, self.rival or self.preferred)))

    def envelope(
        self, at: np.ndarray, seeds: np.ndarray | float = 1, everywhere: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% intervals of all laws heard at sizes `at`, for the mean of `seeds` new runs.

        everywhere: whether a law that is heard outside the data alone is heard at all sizes, as a band without a step.
        """
        seeds = np.broadcast_to(seeds, len(at))
        inside = np.zeros(len(at), dtype=bool) if everywhere else self._inside(at)
        lows, highs = np.full(len(at), np.inf), np.full(len(at), -np.inf)
        for fit in self.laws_beyond:
            asked = ~inside | (fit in self.plausible)
            if not asked.any():
                continue
            low, high = run_interval(fit, self.sample, at[asked], seeds[asked])
            lows[asked], highs[asked] = np.minimum(lows[asked], low), np.maximum(highs[asked], high)
        return lows, highs

    def get(self, name: str) -> CurveFit:
        """The law called `name`, fitted now if it was not compared."""
        return self.find(name) or self.sample.fit(name)

    @cached_property
    def horizon(self) -> Horizon:
        """The sizes that predictions are trusted for: how far beyond the data the laws may be asked.

        0.3 decade; further, up to a decade or half the data's span, as long as the laws agree: the envelope of the
        prediction intervals of the plausible laws and of the power law with offset, which has to be heard whatever its
        AICc since a penalty for its third parameter is no evidence against saturation, is at most 1.5 times as wide as
        the best law's own. Below the smallest size always 0.3 decade.

        What the data say against it counts: of a span under a decade 0.3 of the span and no farther; where the points
        bend half of that and no farther; where the back-test failed nothing beyond the data, on neither side.
        """
        if self.by is not None:
            return self.by.horizon
        sample = self.sample
        if sample.low <= 0:
            return Horizon(sample.low, sample.high, 0.0, "the data alone: a size that is not above 0 has no decades")
        if self.back_tests and self.back_tests[0].failed:
            rule = "the data alone: their smaller sizes did not predict the larger ones"
            return Horizon(sample.low, sample.high, 0.0, rule)
        span = math.log10(sample.high / sample.low)
        bent = bend(sample, "linear" if self.find("linear") else "log-linear")
        turned = bent is not None and bent.resolved
        near, far = HORIZON * min(1.0, span) * (BENT if turned else 1.0), min(FARTHEST, span / 2)
        below = sample.low * 10**-near
        if turned or span < 1:
            why = "the points bend" if turned else f"the data span {span:.2g} decades"
            return Horizon(below, sample.high * 10**near, near, f"{near:.2g} decade beyond the data: {why}")
        steps = np.arange(0, max(far - near, 0) + 1e-9, 0.05) + near
        if self.rival is None:
            steps = steps[:1]
        bands = [run_interval(fit, sample, sample.high * 10**steps) for fit in self.laws_beyond]
        width = np.max([high for _, high in bands], axis=0) - np.min([low for low, _ in bands], axis=0)
        agree = width <= AGREEMENT * (bands[0][1] - bands[0][0])
        reached = int(np.argmin(agree)) - 1 if not agree.all() else len(agree) - 1
        decades = float(steps[max(reached, 0)])
        if reached <= 0:
            rule = f"{decades:.2g} decade beyond the data: further out the laws disagree, or the data span too little"
        else:
            rule = f"{decades:.2g} decade beyond the data: so far the laws, one with an offset among them, agree"
        return Horizon(below, sample.high * 10**decades, decades, rule)

    @cached_property
    def back_tests(self) -> tuple[BackTest, ...]:
        """The largest sizes predicted from the smaller ones, the envelope first."""
        return (
            self.by.back_tests if self.by is not None else back_test(self.sample, tuple(fit.name for fit in self.fits))
        )

    def find(self, name: str) -> CurveFit | None:
        """The law called `name`, if it was fitted."""
        return next((fit for fit in self.fits if fit.name == name), None)


def said_behind(delta: float) -> str:
    """A difference of AICc as it is printed: a number, or words where so few points have no AICc for the law."""
    return f"{delta:.1f}" if np.isfinite(delta) else "too few points"


def compare_laws(sample: Sample, names: Sequence[str] = CANDIDATES) -> LawComparison:
    """Fits each law that has enough configurations (parameters + 2) and enough different sizes.

    Raises:
        UserError: not one of them has.
    """
    fits, skipped = [], []
    for name in dict.fromkeys(names):
        form, levels = find_form(name), len(np.unique(sample.x[:, 0]))
        if sample.n < form.least_points:
            reason = f"{len(form.parameters)} parameters want {form.least_points} configurations, not {sample.n}"
            skipped.append((name, reason))
        elif levels < form.levels[0]:
            skipped.append((name, f"wants {form.levels[0]} different sizes, not {levels}"))
        else:
            fits.append(sample.fit(form))
    if not fits:
        raise UserError(f"{sample.y_name} on {sample.x_name}: no law can be fitted to {sample.n} configurations")
    return LawComparison(sample, tuple(sorted(fits, key=lambda fit: (fit.aicc, fit.aic))), tuple(skipped))


class HeldOutSize(NamedTuple):
    """A size left out of a fit, and what the fit to the smaller ones said of it."""

    x: float
    y: float
    predicted: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the 95% prediction interval held."""
        return self.low <= self.y <= self.high


@dataclass(frozen=True)
class BackTest:
    """A law fitted to the smallest sizes and asked for the largest; law "envelope" is that of all plausible ones."""

    law: str
    trained: int
    held_out: tuple[HeldOutSize, ...]

    @property
    def hits(self) -> int:
        """Held-out sizes inside their interval."""
        return sum(item.inside for item in self.held_out)

    @property
    def misses(self) -> int:
        """Held-out sizes outside their interval."""
        return len(self.held_out) - self.hits

    @property
    def allowed(self) -> int:
        """How many misses 95% intervals have at most, in 95 of 100 back-tests of so many sizes (binomial)."""
        return allowed_misses(len(self.held_out))

    @property
    def failed(self) -> bool:
        """Whether more intervals missed than chance allows."""
        return self.misses > self.allowed

    @property
    def decided(self) -> bool:
        """Whether the hits, if any missed, are too many for intervals that hold every second time (5%, binomial)."""
        return self.misses == 0 or tells_apart(self.misses, len(self.held_out))

    @property
    def text(self) -> str:
        """What happened, in a sentence."""
        misses = [item for item in self.held_out if not item.inside]
        said = f"{self.law}: {self.hits} of {len(self.held_out)} inside the 95% interval"
        if misses:
            worst = max(misses, key=lambda item: max(item.low - item.y, item.y - item.high))
            side = "below" if worst.y < worst.low else "above"
            width = worst.high - worst.low
            said += f"; at {worst.x:.4g} came {significant(worst.y, width)}, {side} {between(worst.low, worst.high)}"
        return said


def allowed_misses(count: int) -> int:
    """Returns how many of so many 95% intervals miss at most, in 95 of 100 such counts (binomial)."""
    return int(stats.binom.ppf(0.95, count, 0.05))


def tells_apart(misses: int, count: int) -> bool:
    """Returns whether so few of `count` intervals missed that they hold more than every second time (5%, binomial)."""
    return float(stats.binom.cdf(misses, count, 0.5)) < 0.05


def back_test(sample: Sample, names: Sequence[str] = CANDIDATES, count: int | None = None) -> tuple[BackTest, ...]:
    """Fits the small, predicts the large and scores the intervals, law by law and for their envelope.

    count: configurations to hold out, the largest; a third of them unless given, as long as four are left to fit.
    Configurations of one size stay together. Empty where that leaves nothing to fit or to hold out.
    """
    order = np.argsort(sample.x[:, 0], kind="stable")
    if count is None:
        count = min(-(-sample.n // 3), sample.n - 4)
    if count < 1 or sample.n - count < 4:
        return ()
    largest_trained = sample.x[order[sample.n - count - 1], 0]
    trained = sample.take(np.flatnonzero(sample.x[:, 0] <= largest_trained))
    large = order[sample.x[order, 0] > largest_trained]
    if len(large) == 0 or len(np.unique(trained.x)) < 3:
        return ()
    comparison = compare_laws(trained, names)
    # Held-out means have the weight of their own runs.
    at, seeds = sample.x[large, 0], sample.runs[large]
    bands = [("envelope", comparison.preferred, comparison.envelope(at, seeds))]
    bands += [(fit.name, fit, run_interval(fit, trained, at, seeds)) for fit in comparison.fits]
    tests = []
    for law, fit, ends in bands:
        columns = np.column_stack([at, sample.y[large], fit.value(at), *ends]).tolist()
        tests.append(BackTest(law, trained.n, tuple(HeldOutSize(*row) for row in columns)))
    return tuple(tests)


class LackOfFit(NamedTuple):
    """F test of a law against the scatter between seeds."""

    f: float
    dof: tuple[float, float]
    p: float
    """Of residuals as large, were the law true."""
    p_small: float
    """Of residuals as small."""

    @property
    def text(self) -> str:
        """The test as it is printed."""
        return f"F({self.dof[0]:.3g}, {self.dof[1]:.3g}) = {self.f:.3g}, p = {self.p:.2g}"


def lack_of_fit(sample: Sample, fit: CurveFit) -> LackOfFit | None:
    """The residuals of the means over what their seeds imply; None where there are no seeds.

    With equally many runs of the same scatter that is the textbook's runs sum_i (mean_i - law_i)^2 / (C - p) / seed
    variance on (C - p, runs - C) degrees of freedom; else both are Satterthwaite's.
    """
    if sample.replication is None:
        return None
    f, dof = replace(fit, replication=sample.replication).uncertainty.homogeneity
    return LackOfFit(f, dof, float(stats.f.sf(f, *dof)), float(stats.f.cdf(f, *dof)))


class Influence(NamedTuple):
    """What one configuration does to a fit."""

    x: float
    leverage: float
    cook: float
    left_out: float
    """The value less its prediction by the others."""
    without: tuple[float, ...]
    """The parameters that the others give."""


def influence(fit: CurveFit) -> tuple[Influence, ...]:
    """Leverage, Cook's distance, leave-one-out residual and parameters of every configuration, from the gradient.

    Exact for linear laws; for curved ones those of the tangent plane.
    """
    unit, lengths = fit.jacobian()
    q, r = np.linalg.qr(unit)
    leverage = np.minimum(np.sum(q**2, axis=1), 1 - 1e-12)
    left = (fit.y - fit.value(fit.x)) * np.sqrt(fit.weights)
    spread = max(fit.residual_sd**2, 1e-300)
    cook = left**2 * leverage / (len(fit.parameters) * spread * (1 - leverage) ** 2)
    without = fit.parameters - (np.linalg.pinv(r) @ (q.T * (left / (1 - leverage)))).T / lengths
    rows = zip(fit.x[:, 0], leverage, cook, fit.loo(), without, strict=True)
    return tuple(Influence(float(x), float(h), float(d), float(e), tuple(map(float, p))) for x, h, d, e, p in rows)


class Curvature(NamedTuple):
    """The quadratic term beside a line, in u = log10(x) or x."""

    bend: float
    low: float
    """Of its 95% interval."""
    high: float
    dof: int
    p: float
    """Two-sided, of no bend."""
    slope: float
    """At `centre`."""
    centre: float
    """Mean of u."""

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def text(self) -> str:
        """The term as it is printed."""
        return f"quadratic term {self.bend:.3g}, 95% interval {between(self.low, self.high, 3)}"

    def slope_at(self, u: float) -> float:
        """The slope of the bent line at u."""
        return self.slope + 2 * self.bend * (u - self.centre)


def curvature(sample: Sample, law: Law = "log-linear") -> Curvature | None:
    """Returns the quadratic term beside a line by weighted least squares; None where these sizes cannot show one."""
    x = sample.x[:, 0]
    u = np.log10(x) if law == "log-linear" else x
    centre, scale = float(u.mean()), float(np.ptp(u)) or 1.0
    dof = sample.n - 3
    if dof < 1 or len(np.unique(u)) < 3:
        return None
    design = np.vander((u - centre) / scale, 3, increasing=True)
    found = regress(design, sample.y, sample.weights)
    error, free = float(found.bse[2]), float(dof)
    if sample.replication is not None:
        rss = float(np.sum(sample.weights * found.resid**2))
        margin = Uncertainty(design, sample.weights, rss, sample.replication).margin(np.eye(3)[2:])
        error, free = math.sqrt(margin.law[0]), float(margin.dof[0])
    half = float(stats.t.ppf(0.975, free)) * error
    bend, slope = float(found.params[2]), float(found.params[1]) / scale
    p = float(2 * stats.t.sf(abs(bend) / error, free)) if error > 0 else 0.0
    low, high = ((bend + sign * half) / scale**2 for sign in (-1, 1))
    return Curvature(bend / scale**2, low, high, dof, p, slope, centre)


def bend(sample: Sample, law: Law = "log-linear") -> Curvature | None:
    """Returns what `curvature` does where it may be judged by: from 5 configurations of 4 sizes on, else None."""
    judged = judges_bends(sample.n, len(np.unique(sample.x))) and (law == "linear" or sample.low > 0)
    return curvature(sample, law) if judged else None


def judges_bends(configurations: int, levels: int) -> bool:
    """Returns whether so many configurations of so many sizes can show a bend."""
    return configurations >= 5 and levels >= 4

"""What laws of two axes say of pairs of sizes that nobody has run, and how far out they may be asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.inference.axes import JointAnalysis, fit_joint
from analysis.inference.evidence import HORIZON, BackTest, HeldOutSize
from analysis.inference.hull import INSIDE, distances
from analysis.inference.predict import LawForecast
from analysis.laws.curves import CurveFit
from analysis.laws.forms import sizes
from analysis.laws.intervals import Interval, law_interval, run_interval
from drorae.errors import UserError


@dataclass(frozen=True)
class PairForecast:
    """What the laws of both axes say of one pair of sizes, and the envelope of their intervals."""

    at: tuple[float, float]
    beyond: float
    """Distance from the pairs measured, as `distances` has it."""
    trusted: bool
    rule: str
    """Which pairs are trusted."""
    laws: tuple[LawForecast, ...]
    """The best AICc first."""
    of_law: Interval
    of_run: Interval
    seeds: float


def forecast_pair(
    found: JointAnalysis, at: tuple[float, float], extrapolate: bool = False, seeds: float = 1
) -> PairForecast:
    """Predicts new runs at one pair of sizes: an interval per law of both axes within 4 AICc of the best.

    Outside the pairs measured the law of two powers is asked too, which can level off, as far as it was fitted.

    Args:
        found: the laws.
        at: the sizes, of the first and of the second axis.
        extrapolate: whether a pair that is not trusted is answered; refused by default.
        seeds: number of new runs whose mean is predicted.

    >>> import pandas as pd
    >>> from analysis.inference.axes import analyse_axes
    >>> rows = [(p, n, 3 - 0.2 * i - 0.05 * n + 0.001 * (-1) ** (i * n)) for i, p in enumerate([1e6, 1e7, 1e8])
    ...         for n in (1, 2, 4, 8)]
    >>> found = analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid")
    >>> low, high = forecast_pair(found, (3e7, 6)).of_run
    >>> low < 2.405 < high
    True

    Raises:
        UserError: a size is none, or the pair is not trusted and `extrapolate` is not asked for.
    """
    for axis, value in zip((found.x_name, found.second_name), at, strict=True):
        logged = axis == found.x_name or any(fit.name != "plane" for fit in found.plausible)
        if not math.isfinite(value) or (logged and value <= 0):
            raise UserError(f"predict at {axis} = {value}: expected a {'size above 0' if logged else 'finite size'}")
    if not seeds >= 1:
        raise UserError(f"predict the mean of {seeds:g} runs: expected 1 or more")
    here = np.array([at])
    beyond = float(distances(found.sample.x, here)[0])
    reach, rule = horizon(found)
    trusted = beyond <= reach + INSIDE
    if not trusted and not extrapolate:
        raise UserError(
            f"predict at {found.x_name} = {at[0]:.4g}, {found.second_name} = {at[1]:.4g}: {beyond:.2f} decades beyond "
            f"the pairs measured, trusted is {rule}; ask again with extrapolate (--extrapolate) for numbers that "
            "nothing vouches for"
        )
    laws = []
    for fit in laws_at(found, beyond):
        ends = [
            Interval(float(low[0]), float(high[0]))
            for low, high in (law_interval(fit, here), run_interval(fit, found.sample, here, seeds))
        ]
        laws.append(LawForecast(fit.name, float(fit.value(here)[0]), *ends))
    of_law, of_run = (
        Interval(min(item.low for item in ends), max(item.high for item in ends))
        for ends in ([item.of_law for item in laws], [item.of_run for item in laws])
    )
    return PairForecast(at, beyond, trusted, rule, tuple(laws), of_law, of_run, seeds)


def laws_at(found: JointAnalysis, beyond: float) -> list[CurveFit]:
    """The plausible laws of both axes and, `beyond` the pairs measured, that of two powers if it was fitted."""
    rival = found.find("two-powers") if beyond > INSIDE else None
    return list(dict.fromkeys([*found.plausible, *([rival] if rival else [])]))


def horizon(found: JointAnalysis) -> tuple[float, str]:
    """How far beyond the pairs measured predictions are trusted (`distances`), and why.

    0.3 decade; nothing where the smaller pairs did not predict the larger ones.
    """
    test = back_test_pairs(found)
    if test is not None and test.failed:
        return 0.0, "the pairs measured and what lies between them: the smaller ones did not predict the larger ones"
    return HORIZON, f"{HORIZON:g} decade beyond the pairs measured, of an axis under a decade {HORIZON:g} of its span"


def back_test_pairs(found: JointAnalysis) -> BackTest | None:
    """The largest pairs predicted from the smaller ones, by the envelope of the laws; None where too few are left.

    A pair is as large as its sizes' ranks together. A third is held out, as long as as many are left as the laws'
    parameters + 2 and three values of each axis. The larger size stands for the pair.
    """
    sample = found.sample
    ranks = sum(np.unique(sample.x[:, k], return_inverse=True)[1] / len(np.unique(sample.x[:, k])) for k in range(2))
    order = np.argsort(ranks, kind="stable")
    kept, large = order[: sample.n - sample.n // 3], order[sample.n - sample.n // 3 :]
    needed = max(found.additive.form.least_points, 5)
    if len(large) == 0 or len(kept) < needed or min(len(np.unique(sample.x[kept, k])) for k in range(2)) < 3:
        return None
    trained = sample.take(np.sort(kept))
    fits, alone, skipped = fit_joint(trained, found.x_name, found.second_name, found.scale)
    smaller = replace(found, sample=trained, fits=fits, alone=alone, skipped=skipped)
    low, high = envelope(smaller, sample.x[large], sample.runs[large])
    columns = np.column_stack([sample.x[large, 0], sample.y[large], fits[0].value(sample.x[large]), low, high])
    return BackTest("envelope", trained.n, tuple(HeldOutSize(*row) for row in columns.tolist()))


def envelope(found: JointAnalysis, at: np.ndarray, seeds: np.ndarray | float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Ends (m,) of the 95% intervals of all laws heard at pairs `at` (m, 2), for the mean of `seeds` new runs."""
    at, seeds = sizes(at), np.broadcast_to(seeds, len(at))
    outside = distances(found.sample.x, at) > INSIDE
    lows, highs = np.full(len(at), np.inf), np.full(len(at), -np.inf)
    for asked, beyond in ((~outside, 0.0), (outside, 1.0)):
        laws: Sequence[CurveFit] = laws_at(found, beyond) if asked.any() else []
        for fit in laws:
            low, high = run_interval(fit, found.sample, at[asked], seeds[asked])
            lows[asked], highs[asked] = np.minimum(lows[asked], low), np.maximum(highs[asked], high)
    return lows, highs

"""What laws say of sizes nobody has run, how far out they may be asked, and whether they were right."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.inference.evidence import Horizon, LawComparison
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Interval, InverseSet, Sample, inverse, law_interval, run_interval
from drorae.errors import UserError


@dataclass(frozen=True)
class LawForecast:
    """What one law says of one size."""

    law: str
    value: float
    of_law: Interval
    """95% interval of the law itself: the mean over seeds and configurations."""
    of_run: Interval
    """95% prediction interval of the run."""


@dataclass(frozen=True)
class Forecast:
    """What the plausible laws say of one size, and the envelope of their intervals."""

    x: float
    decades_beyond: float
    """Beyond the largest size measured (or below the smallest); 0 inside the data."""
    trusted: bool
    """Whether x lies within the horizon."""
    laws: tuple[LawForecast, ...]
    """The best AICc first."""
    of_law: Interval
    of_run: Interval
    on_new_images: Interval | None
    """of_run on evaluation images other than those of the data; None where the metric's own error is not known."""
    seeds: float


def forecast(comparison: LawComparison, at: float, extrapolate: bool = False, seeds: float = 1) -> Forecast:
    """Predicts new runs of one size: an interval per law within 4 AICc of the best, and their envelope.

    Outside the sizes measured the power law with offset is asked too (`LawComparison.laws_at`).

    Args:
        comparison: the laws.
        at: the size.
        extrapolate: whether a size beyond the horizon is answered; refused by default.
        seeds: number of new runs whose mean is predicted.

    Raises:
        UserError: `at` is no size, or lies beyond the horizon and `extrapolate` is not asked for.
    """
    sample = comparison.sample
    if not (math.isfinite(at) and at > 0):
        raise UserError(f"predict at {at}: expected a size above 0")
    if not seeds >= 1:
        raise UserError(f"predict the mean of {seeds:g} runs: expected 1 or more")
    limits = comparison.horizon
    trusted = limits.low * (1 - 1e-9) <= at <= limits.high * (1 + 1e-9)
    beyond = max(math.log10(at / sample.high), math.log10(max(sample.low, 1e-300) / at), 0.0)
    if not trusted and not extrapolate:
        raise UserError(
            f"predict at {sample.x_name} = {at:.4g}: {beyond:.3g} decades beyond the data, trusted is "
            f"{between(limits.low, limits.high)} ({limits.rule}); ask again with extrapolate (--extrapolate) for "
            "numbers that nothing vouches for"
        )
    laws = []
    here = np.array([at])
    for fit in comparison.laws_at(at):
        mean, run = law_interval(fit, here), run_interval(fit, sample, here, seeds)
        value = float(fit.value(here)[0])
        laws.append(LawForecast(fit.name, value, *(Interval(float(a[0]), float(b[0])) for a, b in (mean, run))))
    of_law = _envelope([item.of_law for item in laws])
    of_run = _envelope([item.of_run for item in laws])
    fresh = None
    if sample.common_sd > 0:
        # The data's images err together, and so do the new ones: two draws of an error that more runs do not shrink.
        middle, added = laws[0].value, 1.96 * math.sqrt(2) * sample.common_sd
        below, above = math.hypot(middle - of_run.low, added), math.hypot(of_run.high - middle, added)
        fresh = Interval(middle - below, middle + above)
    return Forecast(at, beyond, trusted, tuple(laws), of_law, of_run, fresh, seeds)


def _envelope(intervals: list[Interval]) -> Interval:
    return Interval(min(item.low for item in intervals), max(item.high for item in intervals))


@dataclass(frozen=True)
class Reach:
    """Sizes at which the target may be reached."""

    target: float
    laws: tuple[tuple[str, InverseSet, bool], ...]
    """(law, its set, whether the set lies within the horizon), the best AICc first."""
    horizon: Horizon

    @property
    def bounded(self) -> bool:
        """Whether every law's set is."""
        return all(found.bounded and found.pieces for _, found, _ in self.laws)

    @property
    def trusted(self) -> bool:
        """Whether every set lies within the horizon."""
        return all(inside for _, _, inside in self.laws)


def reach(comparison: LawComparison, target: float, extrapolate: bool = False) -> Reach:
    """The inverse question, which sizes have a law at `target`: Fieller's set for the line, its like for other laws.

    Of a set that leaves the horizon, the part inside is given (its end infinite where it goes on), all of it with
    `extrapolate`; that it is unbounded is said in any case.

    Raises:
        UserError: the target is not a finite number, or sizes have no logarithm.
    """
    sample = comparison.sample
    if not math.isfinite(target):
        raise UserError(f"target {target}: expected a finite value of {sample.y_name}")
    if sample.low <= 0:
        raise UserError(f"target {target:g}: {sample.x_name} goes down to {sample.low:g}; expected sizes above 0")
    limits = comparison.horizon
    rows = []
    for fit in comparison.laws_beyond:
        found = inverse(fit, target)
        inside = bool(found.pieces) and all(
            item.low >= limits.low * (1 - 1e-9) and item.high <= limits.high * (1 + 1e-9) for item in found.pieces
        )
        if found.pieces and not inside and not extrapolate:
            found = _withheld(found, limits)
        rows.append((fit.name, found, inside))
    return Reach(target, tuple(rows), limits)


def _withheld(found: InverseSet, limits: Horizon) -> InverseSet:
    """The part of a set that lies within the horizon; what lies beyond loses its numbers."""
    kept = tuple(
        Interval(low if low >= limits.low else 0.0, high if high <= limits.high else np.inf)
        for low, high in found.pieces
        if low <= limits.high and high >= limits.low
    )
    estimate = found.estimate
    if estimate is not None and not limits.low <= estimate <= limits.high:
        estimate = None
    starts = [f"{item.low:.4g}" for item in kept if item.low > 0]
    note = f"from {starts[0]} into" if starts else "reaches into" if kept else "wholly in"
    note += f" sizes that are not trusted (beyond {between(limits.low, limits.high)})"
    return InverseSet(estimate, kept, found.bounded, note + ("" if found.bounded else ", unbounded"))


def data_hash(sample: Sample) -> str:
    """SHA-256 of the configurations (sizes, mean, runs) in order of size: which data a prediction was made from."""
    rows = sorted(zip(*sample.x.T.tolist(), sample.y.tolist(), sample.runs.astype(int).tolist(), strict=True))
    return hashlib.sha256(json.dumps([sample.x_name, sample.y_name, rows]).encode()).hexdigest()


PREDICTION_VERSION = 1


def register(comparison: LawComparison, made: Forecast) -> dict[str, Any]:
    """A prediction as a plain record: what was said, of what, from which data; to be scored when the run is in."""
    sample = comparison.sample
    return {
        "kind": "drorae.prediction",
        "version": PREDICTION_VERSION,
        "x": sample.x_name,
        "y": sample.y_name,
        "at": made.x,
        **{name: getattr(made, name) for name in ("seeds", "trusted", "decades_beyond")},
        "envelope": list(made.of_run),
        "laws": [{"law": item.law, "value": item.value, "interval": list(item.of_run)} for item in made.laws],
        "n_configurations": sample.n,
        "data_sha256": data_hash(sample),
    }


def observed_value(record: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> float:
    """Mean value of the runs (x, y), each (n,), within 1% of the size that a record predicts.

    Raises:
        UserError: no run of that size.
    """
    near = np.abs(x / float(record["at"]) - 1) < 0.01
    if not near.any():
        here = ", ".join(f"{value:.4g}" for value in np.unique(x)[:12])
        what = f"no run with {record['x']} within 1% of {record['at']:.6g}"
        raise UserError(f"{what}; expected the run that was predicted, sizes here: {here}")
    return float(np.mean(y[near]))


@dataclass(frozen=True)
class Score:
    """How a registered prediction did."""

    value: float
    inside: bool
    """Whether the envelope held."""
    laws: tuple[tuple[str, float, bool], ...]
    """(law, value less prediction, whether its interval held)."""
    interval_score: float
    """Width plus 2/0.05 times the distance by which the value missed (Gneiting and Raftery 2007, eq. 43)."""
    text: str


def score(record: Mapping[str, Any], value: float) -> Score:
    """Scores a record of `register` against the mean of the runs that came in.

    Raises:
        UserError: not such a record, or a value that is not finite.
    """
    if record.get("kind") != "drorae.prediction" or record.get("version") != PREDICTION_VERSION:
        raise UserError(f"not a registered prediction of version {PREDICTION_VERSION}; expected what --register wrote")
    if not math.isfinite(value):
        raise UserError(f"score against {value}: expected a finite value of {record['y']}")
    low, high = record["envelope"]
    laws = tuple(
        (item["law"], value - item["value"], bool(item["interval"][0] <= value <= item["interval"][1]))
        for item in record["laws"]
    )
    missed = max(low - value, value - high, 0.0)
    text = f"{record['y']} at {record['x']} = {record['at']:.4g}: predicted {between(low, high)}, "
    text += f"came {significant(value, high - low)}: "
    text += f"outside by {missed:.3g}" if missed else "inside"
    return Score(value, missed == 0, laws, high - low + 40 * missed, text)

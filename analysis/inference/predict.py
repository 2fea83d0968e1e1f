"""What laws say of sizes nobody has run, how far out they may be asked, and whether they were right."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from analysis.inference.evidence import Horizon, LawComparison
from analysis.laws.curves import CurveFit
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Interval, InverseSet, Sample, inverse, law_interval, run_interval
from analysis.table.configurations import configuration_columns
from analysis.table.selection import Selection, sample_column
from drorae.config.identity import LOCATIONS
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
    on_new_decoders: Interval | None = None
    """of_run from a phase-1 decoder other than those of the data; None where there is no more than one."""


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
    fresh, image_sd = None, _image_sd(sample, comparison.laws_at(at)[0], at)
    if image_sd > 0:
        # The data's images err together, and so do the new ones: two draws of an error that more runs do not shrink.
        middle, added = laws[0].value, 1.96 * math.sqrt(2) * image_sd
        below, above = math.hypot(middle - of_run.low, added), math.hypot(of_run.high - middle, added)
        fresh = Interval(middle - below, middle + above)
    return Forecast(at, beyond, trusted, tuple(laws), of_law, of_run, fresh, seeds)


def _image_sd(sample: Sample, fit: CurveFit, at: float) -> float:
    """Standard error of a law's value over other images; 0 where nothing is known of it."""
    paired = sample.image_variance(fit, fit.form.gradient(np.array([[at]]), fit.parameters))
    return sample.common_sd if paired is None else float(np.sqrt(paired[0]))


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


PREDICTION_VERSION = 3
"""2 says what the runs were (`of`) and how they were chosen (`origin`), 3 which runs of the size were there already
(`there`); older ones are still scored."""


def constants(selection: Selection, rows: np.ndarray | None = None) -> dict[str, list[str]]:
    """What used rows say they are, by column: fields of a configuration and evaluation images, but no place of files.

    Args:
        selection: the rows; its size is left out.
        rows: mask of those to look at, shape (rows,); all by default.
    """
    used = selection.used if rows is None else selection.used[rows]
    names = [*configuration_columns(used), sample_column(used, selection.y_name)]
    found = {}
    for name in names:
        if name is None or name not in used.columns or name in {selection.x_column, *_CAPACITY, *LOCATIONS}:
            continue
        if values := sorted({said(value) for value in used[name].dropna()}):
            found[name] = values
    return found


_CAPACITY = ("expert_hidden_dim", "fusion.expert_hidden_dim")
"""What makes the sizes."""


def said(value: object) -> str:
    """Returns a cell as a record keeps it: numbers of any type alike."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def register(
    comparison: LawComparison,
    made: Forecast,
    of: Mapping[str, list[str]] | None = None,
    origin: Mapping[str, Any] | None = None,
    there: Sequence[tuple[str, float]] = (),
) -> dict[str, Any]:
    """A prediction as a plain record: what was said, of what, from which data; to be scored when the run is in.

    Args:
        comparison: the laws.
        made: what they say.
        of: what the runs are (`constants`); nothing by default.
        origin: source, filter and conditions of the runs, version of drorae; none by default.
        there: runs of that size that have a value already (`record.runs_there`), which are no score; none by default.
    """
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
        "of": dict(of or {}),
        "origin": dict(origin or {}),
        "there": [list(run) for run in there],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
    if record.get("kind") != "drorae.prediction" or record.get("version") not in range(1, PREDICTION_VERSION + 1):
        known = f"up to version {PREDICTION_VERSION}"
        raise UserError(f"not a registered prediction {known}; expected what --register wrote")
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

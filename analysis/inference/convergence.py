"""How far twice the steps move a law: what the trials that check convergence measure beside those that they repeat."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.cautions import Caution
from analysis.inference.verdicts import Verdict, judged_at
from analysis.laws.curves import CurveFit
from analysis.laws.digits import between, significant
from analysis.laws.intervals import Interval
from analysis.laws.line import Line
from analysis.table.cells import floats
from analysis.table.configurations import configuration_columns
from analysis.table.decoders import DECODER
from analysis.table.selection import Selection, seed_texts
from analysis.table.trackers import plain
from drorae.metrics.registry import title

ALLOWED = 0.25
"""Share of the law's range that twice the steps may move it by. A law that is told from none has a range of some times
what it is uncertain by, so that a quarter of it leaves its sign, and which of two sizes is better, as they are; and as
the loss of a longer training shrinks by less with every doubling, what comes after the first is of the same order."""
LEVEL = 0.90
"""Of the intervals: both ends inside the limits is a test of equivalence at 5% (two one-sided tests)."""
COVERED = 0.9
"""Share of the law's span that the checks have to lie apart: what happens at an end is not said of the other."""

_EPOCHS = re.compile(r"phase\d\.epochs")


@dataclass(frozen=True)
class Movement:
    """What twice the steps change about one number of the law, in the metric's unit."""

    before: float
    after: float
    error: float | None
    """Standard error of the change by the seeds; None where no configuration was run with two."""
    dof: int

    @property
    def change(self) -> float:
        """By how much it moves."""
        return self.after - self.before

    @property
    def interval(self) -> Interval | None:
        """Ends of the 90% interval of the change; None without seeds."""
        if self.error is None:
            return None
        margin = float(stats.t.ppf((1 + LEVEL) / 2, self.dof)) * self.error
        return Interval(self.change - margin, self.change + margin)


@dataclass(frozen=True)
class End(Movement):
    """A size that was checked: the mean of its trials, and of the same with twice the steps."""

    x: float
    label: str
    """The size for people: `h = 8`."""
    pairs: int


@dataclass(frozen=True)
class Convergence:
    """What the checks of a law measure, the smallest size first."""

    ends: tuple[End, ...]
    slope: Movement | None
    """Of the line through the ends, over the law's whole span; None of one size."""
    slopes: tuple[float, float]
    """The line's slope per decade (of a linear law, per unit) before and after."""
    level: float
    """By how much the middle of the law moves."""
    span: float
    """Decades (of a linear law, units) from the law's smallest to its largest size."""
    range: float
    """Largest minus smallest value of the leading law over the data."""
    covered: bool
    """Whether the checks lie as far apart as the law's ends."""
    unpaired: tuple[str, ...]
    """Checks whose trial is not among the runs fitted."""
    unit: str
    per: str

    @property
    def limit(self) -> float:
        """The movement that is allowed."""
        return ALLOWED * self.range

    @property
    def movements(self) -> tuple[Movement, ...]:
        """Everything that is judged."""
        return (*self.ends, *(() if self.slope is None else (self.slope,)))

    @property
    def text(self) -> str:
        """The numbers: `twice the steps: 20.45 -> 20.71 dB at h = 1 ...; slope 0.60 -> 0.52 per decade`."""
        ends = (f"{_from_to(item.before, item.after)}{self.unit} at {item.label}" for item in self.ends)
        slope = "" if self.slope is None else f"; slope {_from_to(*self.slopes)} per {self.per}"
        return f"twice the steps: {', '.join(ends)}{slope}"

    @property
    def details(self) -> str:
        """The same with what each movement is known to, and what it is held against."""
        moved = [f"{item.label} {_moved(item)}" for item in self.ends]
        if self.slope is not None:
            moved.append(f"slope over the law's {self.span:.3g} {self.per}s {_moved(self.slope)}")
            moved.append(f"level {self.level:+.3g}")
        known = " (90% interval)" if any(item.error is not None for item in self.movements) else ""
        limit = f"a quarter of the law's range of {significant(self.range)} is {self.limit:.3g}"
        return f"{self.text}; moved{known}: {', '.join(moved)}; {limit}"

    def tree(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON, with NaN for what is not known."""

        def numbers(item: Movement) -> dict[str, Any]:
            return {"before": item.before, "after": item.after, "change": item.change, "ci90": item.interval}

        ends = [{"x": item.x, "at": item.label, "pairs": item.pairs} | numbers(item) for item in self.ends]
        return {
            "ends": ends,
            "slope": None if self.slope is None else {"before": self.slopes[0], "after": self.slopes[1]},
            "slope_over_span": None if self.slope is None else numbers(self.slope),
            "level": self.level,
            "span": self.span,
            "range": self.range,
            "limit": self.limit,
            "unpaired": list(self.unpaired),
        }


def convergence(line: Line, leading: CurveFit) -> Convergence | None:
    """Pairs the checks of a law with the trials that they repeat; None where the table has no checks.

    A pair agrees in size, seed, decoder and every field of the config but the epochs of its phases. The error of a
    difference of two runs is sqrt(2) times the sd between seeds. Both start from one initialisation and so are alike,
    if anything: the interval is rather too wide.

    Args:
        line: the line, with its runs and the checks beside them.
        leading: the law whose range is the measure.
    """
    selection, sample = line.selection, line.sample
    if not len(selection.checks):
        return None
    found, unpaired = _pairs(selection)
    fitted = leading.value(sample.x[:, 0])
    ends = tuple(_end(line, x, group) for x, group in sorted(found.items()))
    log = line.law == "log-linear"
    span, apart = (_apart((low, high), log) for low, high in ((sample.low, sample.high), _outer(ends)))
    slope, slopes, level = None, (line.slope, line.slope), math.nan
    if ends:
        level = (ends[0].change + ends[-1].change) / 2
    if apart > 0:
        tilt = (ends[-1].change - ends[0].change) / apart
        errors = [ends[0].error, ends[-1].error]
        error = None if None in errors else math.hypot(*(value or 0.0 for value in errors)) * span / apart
        slope = Movement(line.slope * span, (line.slope + tilt) * span, error, sample.seed_dof)
        slopes = (line.slope, line.slope + tilt)
    known = title(selection.y_name)
    unit = f" {known.rpartition('(')[2].rstrip(')')}" if known.endswith(" (dB)") else ""
    return Convergence(
        ends, slope, slopes, level, span, float(np.ptp(fitted)), apart >= COVERED * span, unpaired, unit,
        "decade" if log else "unit",
    )  # fmt: skip


CLAIM = "converged: twice the steps move the law by less than a quarter of its range"


@judged_at("5%, each movement by its 90% interval, and all of them")
def converged(found: Convergence, y_name: str) -> Verdict:
    """Judges whether a law would be the same, but for a quarter of its range, of trials of twice the steps.

    Supported: the 90% intervals of every end's movement and of the slope's over the law's span lie within the quarter.
    Not supported: one of them lies beyond it. Undecided: anything else, as without seeds.
    """
    claim, limit = f"{CLAIM} ({y_name})", found.limit
    if not found.ends:
        reason = f"no check has its trial among the runs fitted: {', '.join(found.unpaired)}"
        return Verdict(claim, "undecided", reason, "the trials that they repeat: run the sweep again")
    intervals = [item.interval for item in found.movements]
    known = [ends for ends in intervals if ends is not None]
    if any(low > limit or high < -limit for low, high in known):
        return Verdict(claim, "not supported", found.details)
    if not found.covered:
        more = "checks of the smallest and of the largest size (drorae sweep --check-convergence)"
        return Verdict(claim, "undecided", f"{found.details}; the checks do not lie at both ends of the law", more)
    if len(known) < len(intervals):
        reason = f"{found.details}; without a second seed, by how much two runs differ by chance is not known"
        return Verdict(claim, "undecided", reason, "a second seed of the sweep's sizes, such as --axis seed=0,1")
    if all(-limit < low and high < limit for low, high in known):
        return Verdict(claim, "supported", found.details)
    return Verdict(claim, "undecided", found.details, _would_decide(found))


def unmeasured(selections: Sequence[Selection]) -> list[Caution]:
    """Returns the one caution of trials of drorae's of which none checks convergence."""
    ours = [item for item in selections if "config_hash" in item.used.columns]
    if not ours or any(len(item.checks) or "best" in "".join(_tuning(item)) for item in selections):
        return []
    message = "whether the trials are trained to the end was not measured: --check-convergence"
    return [Caution("convergence-unmeasured", message)]


def _tuning(selection: Selection) -> list[str]:
    return list(selection.used["tuning"].astype(str)) if "tuning" in selection.used.columns else []


def _pairs(selection: Selection) -> tuple[dict[float, list[tuple[float, float]]], tuple[str, ...]]:
    """Values of trials and of their checks by size, and the names of the checks that have no trial."""
    used, checks = selection.used, selection.checks
    alike = [*configuration_columns(used), *used.attrs.get("best_of", ()), DECODER]
    alike = [name for name in alike if name in used.columns and not _EPOCHS.fullmatch(plain(name))]
    alike = [name for name in alike if name != selection.x_column]
    found: dict[float, list[tuple[float, float]]] = {}
    unpaired = []
    own, others = _keys(used, alike), _keys(checks, alike)
    for i, key in enumerate(others):
        x, y = selection.check_x[i], selection.check_y[i]
        same = [j for j, other in enumerate(own) if other == key and math.isclose(selection.x[j], x)]
        if same:
            found.setdefault(float(selection.x[same[0]]), []).append((float(selection.y[same].mean()), float(y)))
        else:
            unpaired.append(f"{selection.x_name} = {x:.4g}")
    return found, tuple(unpaired)


def _keys(frame: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """What a trial and its check have in common, for every row."""
    cells = [frame[name].astype(str) for name in columns]
    return list(zip(seed_texts(frame), *cells, strict=True))


def _end(line: Line, x: float, pairs: Sequence[tuple[float, float]]) -> End:
    before, after = np.mean(pairs, axis=0)
    sample = line.sample
    sd = sample.seed_sd if sample.replication is None else sample.replication.sd(x)
    error = sd * math.sqrt(2 / len(pairs)) if sample.seed_dof else None
    return End(float(before), float(after), error, sample.seed_dof, x, _label(line.selection, x), len(pairs))


def _label(selection: Selection, x: float) -> str:
    """A size as people call it: the experts' width where every number of parameters has one."""
    used = selection.used
    if selection.x_name == "params" and "expert_hidden_dim" in used.columns:
        every = floats(used["expert_hidden_dim"])
        here = np.unique(every[np.isclose(selection.x, x)])
        if len(here) == 1 < len(np.unique(every)):
            return f"h = {here[0]:g}"
    return f"{selection.x_name} = {x:.4g}"


def _outer(ends: Sequence[End]) -> tuple[float, float]:
    return (ends[0].x, ends[-1].x) if ends else (1.0, 1.0)


def _apart(sizes: tuple[float, float], log: bool) -> float:
    return math.log10(sizes[1] / sizes[0]) if log else sizes[1] - sizes[0]


def _from_to(before: float, after: float) -> str:
    size, spread = max(abs(before), abs(after)), abs(after - before)
    wanted = (1 - math.floor(math.log10(value)) for value in (size, spread) if value > 0)
    places = max(2 if size < 100 else 1, *wanted, 0)
    return f"{before:.{places}f} -> {after:.{places}f}"


def _moved(item: Movement) -> str:
    return f"{item.change:+.3g}" + ("" if item.interval is None else f" ({between(*item.interval, 3)})")


def _would_decide(found: Convergence) -> str:
    """How many seeds of the checks would show whether the widest movement is allowed, or what moves less."""
    worst = max(found.movements, key=lambda item: abs(item.change))
    left = abs(found.limit - abs(worst.change))
    pairs = max(item.pairs for item in found.ends)
    margin = (worst.interval.high - worst.interval.low) / 2 if worst.interval is not None else 0.0
    factor = (margin / left) ** 2 if left > 0 else math.inf
    if factor > 50:
        return "trials of more epochs, which twice the steps move less"
    seeds = max(math.ceil(factor * pairs), pairs + 1)
    return f"the checks with about {seeds} seeds of each end (now {pairs}), or trials of more epochs, which move less"

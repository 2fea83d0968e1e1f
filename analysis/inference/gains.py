"""Whether fusion helps: the trials' gains over no fusion, judged by their paired intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.inference.chosen import heed_choice
from analysis.inference.designs import holm
from analysis.inference.verdicts import Verdict, judged_at
from analysis.laws.intervals import Interval
from analysis.table.cells import floats
from analysis.table.columns import column_of
from analysis.table.selection import Selection
from drorae.metrics.registry import GAIN

LEVEL = 0.05
"""Of all trials' tests together."""
_LISTED = 6
"""Sizes that a verdict names one by one."""


class ConfigurationGain(NamedTuple):
    """The mean gain of one configuration's runs."""

    x: float
    gain: float
    ci95: Interval
    """Over other images of the kind; as wide as its runs' own on average, as they have been measured on the same."""
    runs: int


@dataclass(frozen=True)
class TrialGains:
    """Gains of the used runs that have one, shape (runs,); positive is better."""

    selection: Selection
    """Those runs."""
    gain: np.ndarray
    error: np.ndarray
    """Paired standard errors over images."""
    lacking: int = 0
    """Used runs without a gain."""

    @property
    def dof(self) -> float:
        """Of the errors; infinite where the number of images is not known."""
        images = self.selection.eval_images
        return images - 1 if images and images > 1 else math.inf

    @property
    def adjusted(self) -> np.ndarray:
        """Two-sided p-values of no gain, by Holm over all runs."""
        exact = np.where(self.gain == 0, 0.0, math.inf)
        t = np.divide(np.abs(self.gain), self.error, out=exact, where=self.error > 0)
        return holm(2 * stats.t.sf(t, self.dof))

    @property
    def configurations(self) -> tuple[ConfigurationGain, ...]:
        """The means over the runs of each configuration, by size."""
        found, groups = [], self.selection.configurations
        for group in np.unique(groups):
            own = groups == group
            mean = float(self.gain[own].mean())
            half = float(stats.t.ppf(0.975, self.dof) * self.error[own].mean())
            x = float(self.selection.x[own][0])
            found.append(ConfigurationGain(x, mean, Interval(mean - half, mean + half), int(own.sum())))
        return tuple(sorted(found))


def trial_gains(selection: Selection) -> TrialGains | None:
    """Returns the gains over no fusion that a table has of the runs used; None where it has none."""
    used, y = selection.used, selection.y_name
    columns = [column_of(used, f"{GAIN}{y}{end}") for end in ("", "_se")]
    if None in columns:
        return None
    gain, error = (floats(used[name]) for name in columns)
    known = np.isfinite(gain) & np.isfinite(error) & (error >= 0)
    if not known.any():
        return None
    return TrialGains(selection.take(known), gain[known], error[known], int((~known).sum()))


def fusion_helps(selection: Selection) -> Verdict | None:
    """Judges whether the trials are better with fusion than their phase-1 decoder is without; None without gains.

    Supported: every run's gain is above zero, at 5% by Holm over all runs. Not supported: one is below zero at that
    level, or none is above. Of the best of several settings (`Selection.best`) also less what choosing adds.
    """
    found = trial_gains(selection)
    if found is None:
        return None
    own = _helps(found)
    if not found.selection.best:
        return own
    plain = replace(found, gain=found.gain - np.abs(found.selection.flattery))
    return heed_choice((own,), (_helps(plain),))[0]


@judged_at("5% over all runs (Holm), paired over images; of these seeds and decoders")
def _helps(found: TrialGains) -> Verdict:
    gain, runs, y = found.gain, len(found.gain), found.selection.y_name
    sure = found.adjusted < LEVEL
    better, worse = sure & (gain > 0), sure & (gain < 0)
    open_ = ~sure
    claim = f"fusion helps: {better.sum()} of {runs} runs are better in {y} than no fusion"
    said = f"gains {gain.min():+.4g} to {gain.max():+.4g}"
    said += f" ({found.lacking} more runs have none in the table)" if found.lacking else ""
    if better.all():
        return Verdict(claim, "supported", f"{said}, every paired interval above zero")
    if worse.any():
        said += f"; {worse.sum()} significantly worse, at {_sizes(found, worse)}"
        return Verdict(claim, "not supported", said)
    if not better.any():
        return Verdict(claim, "not supported", f"{said}, no paired interval above zero")
    return Verdict(claim, "undecided", f"{said}; not told from none at {_sizes(found, open_)}", _wanted(found, open_))


def _sizes(found: TrialGains, chosen: np.ndarray) -> str:
    """The sizes of some runs, and how many runs of each."""
    sizes, counts = np.unique(found.selection.x[chosen], return_counts=True)
    pairs = zip(sizes, counts, strict=True)
    listed = [f"{size:.4g} ({count} runs)" if count > 1 else f"{size:.4g}" for size, count in pairs]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"{found.selection.x_name} = {', '.join(listed[:_LISTED])}{more}"


def _wanted(found: TrialGains, chosen: np.ndarray) -> str:
    """How many evaluation images would resolve some gains, were they what they seem."""
    gain, error, images = found.gain[chosen], found.error[chosen], found.selection.eval_images
    more = "more evaluation images, over which gains are paired"
    if images is None or (gain <= 0).any():
        return f"{more}; training that gains more at these sizes"
    limit = float(stats.t.isf(LEVEL / 2 / len(found.gain), found.dof))
    factor = float(np.max(np.square(limit * error / gain)))
    return f"{more}: about {math.ceil(max(factor, 1.1) * images):,} like these {images:,}" if factor < 50 else more

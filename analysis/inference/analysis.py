"""Everything that the runs of a table say of one metric against one size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.inference.asked import LINES, AskedLaw, Asking, ask_law, form_verdict
from analysis.inference.cautions import Caution, cautions, few_for_aicc, fit_flags
from analysis.inference.chosen import heed_choice, join_forecasts, join_reaches
from analysis.inference.convergence import Convergence, converged, convergence
from analysis.inference.draws import Draws
from analysis.inference.evidence import CANDIDATES, BackTest, Horizon, LawComparison, compare_laws
from analysis.inference.gains import TrialGains, fusion_helps, trial_gains
from analysis.inference.predict import Forecast, Reach, forecast, reach
from analysis.inference.verdicts import Verdict, verdicts
from analysis.laws.bootstrap import Progress
from analysis.laws.curves import CurveFit
from analysis.laws.intervals import law_interval, new_point_interval
from analysis.laws.line import Line, Unit, fit_line
from analysis.table.design import check_design
from analysis.table.selection import Selection, select


@dataclass(frozen=True)
class Analysis:
    """One metric against one size: the line, its rivals, back-tests, verdicts, predictions.

    Everything beyond the line is computed when first asked for.
    """

    line: Line
    asked: AskedLaw | None = None
    """The law that leads because it was asked for; None where the line of least squares was."""

    @property
    def selection(self) -> Selection:
        """The runs fitted, and those left out."""
        return self.line.selection

    @cached_property
    def comparison(self) -> LawComparison:
        """All laws that these configurations can carry, the preferred one first."""
        sample = self.line.sample
        names = CANDIDATES if self.line.law == "log-linear" else ("linear", *CANDIDATES)
        # Four configurations carry the line that was asked for and no more.
        found = compare_laws(self.line.judged, names if sample.low > 0 else ("linear",))
        return found if self.line.judged is sample else found.of_points(sample)

    @property
    def back_tests(self) -> tuple[BackTest, ...]:
        """The largest sizes predicted from the smaller ones, the envelope first."""
        return self.comparison.back_tests

    @cached_property
    def _line_verdicts(self) -> tuple[Verdict, ...]:
        own = verdicts(self.comparison.judge, self.line.law, self.draws.deciding)
        return own if self.unflattered is None else heed_choice(own, self.unflattered.law_verdicts)

    @cached_property
    def unflattered(self) -> Analysis | None:
        """The same of values less what having been chosen flatters them by; None where nothing was chosen."""
        if not self.selection.best:
            return None
        plain = replace(self.selection, y=self.selection.y + self.selection.flattery, best=())
        return Analysis(fit_line(plain, self.line.law, self.line.unit))

    @cached_property
    def gains(self) -> TrialGains | None:
        """The runs' gains over no fusion; None where the table has none."""
        return trial_gains(self.selection)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of the law (`law_verdicts`), of its trials having converged, and of whether fusion helps.

        The last two as far as the table has what they are decided by.
        """
        more = (self.converged, fusion_helps(self.selection))
        return (*self.law_verdicts, *(item for item in more if item is not None))

    @cached_property
    def law_verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of the law asked for, of a trend, of saturation, and of their own largest sizes."""
        if self.asked is None or self.asked.asking.law in LINES:
            return self._line_verdicts
        return (form_verdict(self.asked, self.comparison.fits), *self._line_verdicts)

    @cached_property
    def convergence(self) -> Convergence | None:
        """How far twice the steps move the law; None where no trial checks it."""
        return convergence(self.line, self.leading)

    @cached_property
    def converged(self) -> Verdict | None:
        """Whether the law would be the same of longer trials; None where no trial checks it."""
        return None if self.convergence is None else converged(self.convergence, self.selection.y_name)

    @property
    def not_converged(self) -> str:
        """What a headline says of a law that longer trials would move; empty of any other."""
        if self.convergence is None or self.converged is None or self.converged.verdict != "not supported":
            return ""
        return f"not converged: {self.convergence.text}"

    @property
    def rejected(self) -> bool:
        """Whether the points speak against the law that was asked for: the line, unless another was."""
        return bool(self.law_verdicts) and self.law_verdicts[0].verdict == "not supported"

    @property
    def line_rejected(self) -> bool:
        """Whether the points speak against the line."""
        return bool(self._line_verdicts) and self._line_verdicts[0].verdict == "not supported"

    @cached_property
    def leading(self) -> CurveFit:
        """The law that is said first and drawn thickest: the one asked for by name or method.

        Otherwise the preferred one, and never a line that is rejected.

        Where AICc prefers a line that the points bend away from, the law among the others with the least error of
        predicting each configuration from the rest.
        """
        if self.asked is not None:
            return self.asked.fit
        preferred = self.comparison.preferred
        others = [fit for fit in self.comparison.fits if fit.name != self.line.law]
        if not (self.rejected and preferred.name == self.line.law and others):
            return preferred
        return min(others, key=lambda fit: self.comparison.judged(fit).loo_rmse)

    @property
    def residual_law(self) -> CurveFit:
        """The law that residuals are about: the one asked for by name or method, else the line.

        Also a line that is rejected: how the points leave it is what its residuals show.
        """
        return self.line.curve if self.asked is None else self.asked.fit

    def law_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval of the leading law at sizes `at`."""
        return law_interval(self.leading, at) if self.asked is None else self.asked.law_interval(at)

    def new_point_interval(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (points,) of the 95% interval that the leading law gives a new point like those fitted."""
        return new_point_interval(self.leading, at) if self.asked is None else self.asked.new_point_interval(at)

    @property
    def horizon(self) -> Horizon:
        """The sizes that predictions are trusted for, with and without the flattery of what was chosen."""
        own, other = self.comparison.horizon, self.unflattered
        return own if other is None else min(own, other.horizon, key=lambda limits: limits.high)

    @property
    def disputed(self) -> bool:
        """Whether several laws are heard at the end of the horizon."""
        end = self.horizon.high
        return len(self.comparison.laws_at(end) if end > 0 else self.comparison.plausible) > 1

    @property
    def typical_seeds(self) -> float:
        """Median number of runs of a configuration."""
        return float(np.median(self.line.sample.runs))

    @cached_property
    def draws(self) -> Draws:
        """What the line says beyond the images and decoders that all runs share."""
        return Draws(self.line)

    @cached_property
    def cautions(self) -> tuple[Caution, ...]:
        """What a reader should be told, of the line and of each plausible law."""
        flags = (flag for fit in self.comparison.plausible for flag in fit_flags(fit))
        found = [*cautions(self.line), *self.draws.cautions, *few_for_aicc(self.comparison), *flags]
        if self.asked is not None and self.asked.resampled is None:
            found += fit_flags(self.asked.fit)
        return tuple(dict.fromkeys(found))

    def remarks(self) -> list[str]:
        """What every answer repeats, as lines for a terminal: notes, how the laws compare, verdicts."""
        lines = [f"  note: {item.message} [{item.code}]" for item in self.cautions]
        compared = [f"{item.name} {self.comparison.behind(item)}" for item in self.comparison.fits]
        lines.append(f"  laws by {self.comparison.criterion} behind the best: {', '.join(compared)}")
        return lines + [text for verdict in self.verdicts for text in verdict.lines()]

    def predict(self, at: float, extrapolate: bool = False, seeds: float = 1) -> Forecast:
        """See `analysis.inference.predict.forecast`."""
        made = self.draws.widen(forecast(self.comparison, at, extrapolate, seeds))
        other = self.unflattered
        return made if other is None else join_forecasts(made, other.predict(at, extrapolate, seeds))

    def target(self, value: float, extrapolate: bool = False) -> Reach:
        """See `analysis.inference.predict.reach`."""
        found, other = reach(self.comparison, value, extrapolate), self.unflattered
        return found if other is None else join_reaches(found, other.target(value, extrapolate))


def analyse(
    frame: pd.DataFrame,
    x: str,
    y: str,
    law: str | Asking = "log-linear",
    include: Iterable[str] = (),
    unit: Unit = "configuration",
    progress: Progress | None = None,
) -> Analysis:
    """Analyses metric `y` against size `x` over the usable rows of `frame`.

    Args:
        frame: one row per run.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: column of the metric.
        law: the law that leads, by name or as an `Asking` with its method; beside it stands a line in log10(x), of
            linear in x.
        include: statuses of runs to fit beside finished.
        unit: configuration, seeds are averaged first; row, every row is a point.
        progress: called with the resamples of a bootstrap that are done, and with their number.

    >>> import pandas as pd
    >>> sizes = [2.5e6, 4.8e6, 9.6e6, 19e6, 37.9e6, 56.8e6, 75.7e6, 113.4e6]
    >>> rfid = [0.539, 0.559, 0.525, 0.519, 0.510, 0.471, 0.470, 0.459]
    >>> found = analyse(pd.DataFrame({"params": sizes, "rfid": rfid}), "params", "rfid")
    >>> round(found.line.slope, 4)
    -0.0565
    >>> [(item.claim.split(":")[0], item.verdict) for item in found.verdicts[:2]]
    [('log-linear', 'supported'), ('no saturation', 'undecided')]
    >>> low, high = found.predict(2e8).of_run
    >>> f"{low:.3f} .. {high:.3f}"
    '0.401 .. 0.503'
    >>> found.target(0.40).bounded
    False
    >>> frame = pd.DataFrame({"params": sizes, "rfid": rfid})
    >>> analyse(frame, "params", "rfid", Asking("power", method="huber", resamples=200)).asked.how
    "Huber's loss of log residuals, delta 0.001"

    Raises:
        UserError: what `select`, `check_design`, `fit_line` and `ask_law` refuse.
    """
    asking = law if isinstance(law, Asking) else Asking(law)
    asking.check(1)
    selection = select(frame, x, y, include, log=asking.line == "log-linear")
    check_design(selection, unit)
    line = fit_line(selection, asking.line, unit)
    return Analysis(line, ask_law(line.sample, asking, progress) if asking.special else None)

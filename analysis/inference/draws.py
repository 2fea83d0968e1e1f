"""What all runs of a law share by chance: their evaluation images and phase-1 decoders, and intervals for new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from analysis.inference.cautions import Caution
from analysis.inference.predict import Forecast
from analysis.inference.verdicts import DecoderSlope
from analysis.laws.intervals import Interval, run_interval, satterthwaite
from analysis.laws.line import Line
from analysis.table.decoders import SEED, decoder_labels

DECIDING_DECODERS = 3
"""From so many on a trend is judged by the slope for new ones."""
FEW_DECODERS = 4
"""Below this many, an interval for new decoders rests on so few that it is several times as wide as it need be."""
_SLOPE = np.array([0.0, 1.0])


class NewDraws(NamedTuple):
    """The slope, were something drawn anew."""

    what: str
    """images, decoders, or images and decoders."""
    slope: Interval
    source: str
    """What it rests on."""

    @property
    def text(self) -> str:
        """For a terminal or a page."""
        return f"for new {self.what}: slope {self.slope.low:.4g} .. {self.slope.high:.4g} ({self.source})"


@dataclass(frozen=True)
class Draws:
    """What a line says beyond the images and decoders that its runs share."""

    line: Line

    @cached_property
    def decoders(self) -> int:
        """How many decoders the runs start from; 0 where that is not stated."""
        return len({*decoder_labels(self.line.selection.used)} - {""})

    @property
    def level_sd(self) -> float:
        """Standard error of a configuration's mean over other images; 0 where it is not known."""
        sample = self.line.sample
        if sample.image_covariance is None:
            return sample.common_sd
        return float(np.sqrt(np.mean(np.diag(sample.image_covariance))))

    @property
    def given(self) -> str:
        """What the line's own intervals hold for, to be put behind them; empty where nothing is known of draws."""
        images = self.line.selection.eval_images or self.line.sample.images
        parts = [f"these {images} images"] * bool(images)
        parts += ["this decoder" if self.decoders == 1 else f"these {self.decoders} decoders"] * bool(self.decoders)
        return f"; for {' and '.join(parts)}" if parts else ""

    @cached_property
    def intervals(self) -> tuple[NewDraws, ...]:
        """The slope's 95% intervals for new images, new decoders, and both, as far as the runs know them."""
        line, found = self.line, []
        images, several = self._image_parts(), line.decoders
        paired = f"paired influences of {line.sample.images} images, which move the level by {self.level_sd:.3g}"
        if images:
            # What the images do off the line is in the residuals already.
            error, dof = line.slope_error
            scatter = line.sample.image_scatter(line.curve) / line.curve.residual_sd**2 if line.curve.rss > 0 else 0.0
            own = (error**2 * max(1 - scatter, 0.0), dof)
            new = satterthwaite(line.slope, [own, *images])
            here = line.slope_ci95
            new = Interval(min(new.low, here.low), max(new.high, here.high))
            found.append(NewDraws("images", new, paired))
        if several is not None:
            level, slope = several.sds
            source = f"{several.count} decoders, whose level has an sd of {level:.3g} and slope of {slope:.3g}"
            found.append(NewDraws("decoders", several.new(_SLOPE), source))
            if images:
                both = satterthwaite(several.value(_SLOPE), [several.mean_part(_SLOPE), *images])
                # Its degrees of freedom are between those of its parts; what holds for more is never the narrower.
                parts = [both, *(item.slope for item in found)]
                both = Interval(min(part.low for part in parts), max(part.high for part in parts))
                found.append(NewDraws("images and decoders", both, "both of these"))
        return tuple(found)

    @property
    def deciding(self) -> DecoderSlope | None:
        """The slope for new decoders, by which a trend is judged; None of fewer than 3, whose t decides nothing."""
        several = self.line.decoders
        if several is None or several.count < DECIDING_DECODERS:
            return None
        return DecoderSlope(several.new(_SLOPE), several.count)

    @property
    def here(self) -> str:
        """Which decoders the main intervals are for, to be put behind a word; empty unless there are several."""
        return f" for these {self.decoders} decoders" if self.decoders > 1 else ""

    def _image_parts(self) -> list[tuple[float, float]]:
        variance = self.line.sample.image_variance(self.line.curve, _SLOPE[None])
        return [] if variance is None else [(float(variance[0]), self.line.sample.images - 1.0)]

    @cached_property
    def cautions(self) -> tuple[Caution, ...]:
        """What of other images and decoders is not known."""
        return (*self._of_images(), *self._of_decoders())

    def _of_images(self) -> Iterator[Caution]:
        if self.line.sample.image_covariance is None and self.level_sd > 0:
            message = (
                f"all runs were measured on the same images; others would move all values by about {self.level_sd:.3g} "
                "together (standard error), and the slope by what only the trials' values per image tell: fit the "
                "sweep's folder for an interval that holds for new images"
            )
            yield Caution("shared-images", message)

    def _of_decoders(self) -> Iterator[Caution]:
        remedy = f"of another nothing is known until a sweep has {SEED} as an axis"
        if self.line.decoders is not None and self.decoders < FEW_DECODERS:
            message = f"intervals for new decoders rest on {self.decoders}; at least {FEW_DECODERS} advised"
            yield Caution("few-decoders", message)
        elif self.line.decoders is None and self.decoders > 1:
            message = f"the runs' {self.decoders} decoders were not all run at the same sizes: {remedy}"
            yield Caution("decoders-not-crossed", message)
        elif self.decoders == 1:
            yield Caution("one-decoder", f"all runs start from one phase-1 decoder: {remedy}")
        elif not self.decoders and self.level_sd > 0:
            yield Caution("one-decoder", f"which phase-1 decoder the runs start from is not stated: {remedy}")

    def widen(self, made: Forecast) -> Forecast:
        """The same prediction with its interval for a run that starts from a new decoder, where that is known."""
        several, line = self.line.decoders, self.line
        if several is None:
            return made
        row = np.array([1.0, np.log10(made.x) if line.law == "log-linear" else made.x])
        low, high = several.run(row, made.seeds)
        # About the law that leads the prediction; what the laws in question differ by comes on top.
        shift = made.laws[0].value - several.value(row)
        (least,), (most,) = run_interval(line.curve, line.sample, np.array([made.x]), made.seeds)
        below, above = max(least - made.of_run.low, 0.0), max(made.of_run.high - most, 0.0)
        return replace(made, on_new_decoders=Interval(low + shift - below, high + shift + above))

"""By how much one tokenizer is better than another on the same images, and the sampling error of that difference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from drorae.metrics.registry import INFLUENCE, better

if TYPE_CHECKING:
    from drorae.metrics.evaluate import Evaluation


def gains(of: Evaluation, over: Evaluation) -> dict[str, float]:
    """Returns the gain in every metric that both know image by image, and its paired standard error as `<metric>_se`.

    A gain is positive where `of` is better, whichever way its metric is. Each image is one draw and has been through
    both: with d_i the centred difference of what it adds to either (its value, or its influence on a Frechet
    distance), the variance is sum d_i^2 / (n (n - 1)). What moves both alike, such as how hard the images
    are, drops out.

    Nothing is said of a metric that has no direction or is not finite in either, or where the images are not as many.
    """
    # Whoever only reads gains, such as a command's help, does without.
    import numpy as np

    found: dict[str, float] = {}
    for key in of.per_image:
        name = key.removesuffix(INFLUENCE)
        direction, other = better(name), over.per_image.get(key)
        if direction is None or other is None or len(other) != len(of.per_image[key]):
            continue
        sign = 1 if direction == "higher" else -1
        gain = sign * (of.metrics[name] - over.metrics[name])
        with np.errstate(invalid="ignore"):
            difference = np.asarray(of.per_image[key], dtype=float) - other
            error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        if math.isfinite(gain) and math.isfinite(error):
            found |= {name: gain, f"{name}_se": error}
    return found


class Gain(NamedTuple):
    """A gain with its 95% interval."""

    value: float
    half: float
    """Of the interval's width."""

    def __str__(self) -> str:
        return f"{self.value:+.4g} ± {self.half:.2g}"


def interval(value: float, error: float, images: float) -> Gain:
    """Returns a gain with the 95% t interval of its standard error over so many images, at least 2."""
    return Gain(value, _t975(images - 1) * error)


def _t975(dof: float) -> float:
    """The 97.5% quantile of Student's t to 4 in 1000, of 10 degrees of freedom and more to 1 in 100,000.

    By Abramowitz and Stegun (1972), 26.7.5; in closed form where that is poor. The core does without scipy.
    """
    if dof < 3:
        return (12.7062, 4.30265)[int(dof) - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / dof**power for power, term in enumerate(terms, 1))


def gain_of(found: Mapping[str, float | str], name: str, images: float) -> Gain | None:
    """Returns a gain out of what `gains` found, or out of a table's row, whose cells may be texts and empty.

    Args:
        found: gains and their standard errors.
        name: the metric's name there, in a row `gain_...`.
        images: how many there were.

    Returns:
        None where it is not among them.
    """
    value, error = found.get(name), found.get(f"{name}_se")
    if value in (None, "") or error in (None, "") or images < 2:
        return None
    return interval(float(value), float(error), images)

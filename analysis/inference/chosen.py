"""Values that are each the best of several: verdicts and predictions that hold with and without what choosing adds."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from analysis.inference.predict import Forecast, LawForecast, Reach
from analysis.inference.verdicts import Verdict
from analysis.laws.intervals import Interval

WITHOUT = "without what choosing the best adds"


def heed_choice(own: tuple[Verdict, ...], plain: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """The verdicts of chosen values, each undecided unless the values less their flattery have the same.

    Args:
        own: of the values as they were chosen.
        plain: of the same less their flattery (`analysis.table.best_of.Best`), in the same order.
    """
    return tuple(_both(one, other) for one, other in zip_longest(own, plain) if one is not None)


def _both(own: Verdict, plain: Verdict | None) -> Verdict:
    if plain is not None and plain.verdict == own.verdict:
        return own
    said = "no such verdict" if plain is None else f"{plain.verdict}: {plain.reason}"
    return own._replace(
        verdict="undecided",
        reason=f"{own.verdict} by the best of what was tried, {own.reason}; {WITHOUT}, {said}",
        would_decide=own.would_decide or "runs of the chosen settings with seeds that did not choose them",
    )


def join_forecasts(own: Forecast, plain: Forecast) -> Forecast:
    """A prediction whose intervals hold those of the values less their flattery, too; values stay as chosen."""
    of_laws = {item.law: item for item in plain.laws}
    laws = tuple(_join_laws(item, of_laws[item.law]) if item.law in of_laws else item for item in own.laws)
    return replace(
        own, laws=laws, trusted=own.trusted and plain.trusted, of_law=hull(own.of_law, plain.of_law),
        of_run=hull(own.of_run, plain.of_run), on_new_images=_hull_of_known(own.on_new_images, plain.on_new_images),
        on_new_decoders=_hull_of_known(own.on_new_decoders, plain.on_new_decoders),
    )  # fmt: skip


def join_reaches(own: Reach, plain: Reach) -> Reach:
    """The sizes for a target by both; those of the values less their flattery are named so."""
    more = tuple((f"{law}, {WITHOUT}", sizes, inside) for law, sizes, inside in plain.laws)
    return replace(own, laws=own.laws + more)


def _join_laws(own: LawForecast, plain: LawForecast) -> LawForecast:
    return replace(own, of_law=hull(own.of_law, plain.of_law), of_run=hull(own.of_run, plain.of_run))


def hull(one: Interval, other: Interval) -> Interval:
    """The least interval that holds both."""
    return Interval(min(one.low, other.low), max(one.high, other.high))


def _hull_of_known(one: Interval | None, other: Interval | None) -> Interval | None:
    return one if one is None or other is None else hull(one, other)

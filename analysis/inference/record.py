"""Registered predictions and how they did once their runs had come in: the record, and whether it is calibrated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.evidence import allowed_misses, tells_apart
from analysis.inference.predict import Score, constants, said, score
from analysis.table.columns import numbers, texts
from analysis.table.selection import Selection
from analysis.table.trackers import adopt
from drorae.errors import UserError

NEAR = 0.01
"""Runs within 1% of the size predicted are of that size."""

_FIRST_THERE = 3
"""The version from which on a record says which runs were there when it was registered."""


class AwaitedError(UserError):
    """The runs that a prediction is of have not come in yet."""


def load(path: Path) -> dict[str, Any]:
    """Reads a record from its file.

    Raises:
        UserError: not readable, or no record.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); expected what --register wrote") from None
    return checked(str(path), record)


def checked(place: str, record: Any) -> dict[str, Any]:
    """Returns a record that has all that a score needs.

    Raises:
        UserError: it is none.
    """
    try:
        low, high = map(float, record["envelope"])
        laws = [(str(item["law"]), float(item["value"]), *map(float, item["interval"])) for item in record["laws"]]
        usable = low <= high and float(record["at"]) > 0 and {len(law) for law in laws} <= {4}
        usable = usable and isinstance(record["x"], str) and isinstance(record["y"], str)
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:
        raise UserError(f"{place}: not a registered prediction; expected what --register wrote")
    return dict(record)


def runs_there(frame: pd.DataFrame, selection: Selection, at: float) -> list[tuple[str, float]]:
    """Returns the runs of a size that have a value, whatever their status, as pairs of identity and value.

    Args:
        frame: the table that the selection is of.
        selection: names the columns.
        at: the size.
    """
    frame = adopt(frame)
    y = numbers(frame, selection.y_name)
    known = _near(numbers(frame, selection.x_column), at) & np.isfinite(y)
    names = _identities(frame)
    return [(names[i], float(y[i])) for i in np.flatnonzero(known)]


def _near(x: np.ndarray, at: float) -> np.ndarray:
    return np.abs(x / at - 1) < NEAR


def _identities(frame: pd.DataFrame) -> list[str]:
    """What every run is known by; empty where the table does not say."""
    pairs = zip(texts(frame, "config_hash"), texts(frame, "run_id"), strict=True)
    return [key or run for key, run in pairs]


def arrived(record: Mapping[str, Any], selection: Selection, strict: bool = False) -> float:
    """Returns the value that a record is scored against: the mean of as many new runs of its size as it predicts.

    Runs that were there when the prediction was registered are not new. The runs are those of the first configuration
    that has enough of them, in the order of the table.

    Args:
        record: of `register`.
        selection: the runs, of the record's x and y.
        strict: whether runs count only where the table says of them all that the record says of those it was made from.

    Raises:
        AwaitedError: they are not there yet.
        UserError: runs of that size are something else than what was predicted, or the record does not say which of
            them were there.
    """
    near = _near(selection.x, float(record["at"]))
    if not near.any():
        here = ", ".join(f"{value:.4g}" for value in np.unique(selection.x)[:12])
        what = f"no run with {record['x']} within {NEAR:.0%} of {record['at']:.6g}"
        raise AwaitedError(f"{what}; expected the run that was predicted, sizes here: {here}")
    same = near & _of(record, selection, strict)
    if not same.any():
        _refuse(record, selection, near)
    new = same & ~_was_there(record, selection)
    counts = np.bincount(selection.configurations[new]) if new.any() else np.zeros(1, dtype=int)
    wanted = int(record.get("seeds", 1))
    enough = [i for i in np.flatnonzero(new) if counts[selection.configurations[i]] >= wanted]
    if not enough:
        runs = "the run" if wanted == 1 else f"the {wanted} runs"
        raise AwaitedError(f"{int(counts.max())} new runs of that size; expected {runs} whose value was predicted")
    chosen = np.flatnonzero(new & (selection.configurations == selection.configurations[enough[0]]))[:wanted]
    return float(np.mean(selection.y[chosen]))


def _of(record: Mapping[str, Any], selection: Selection, strict: bool) -> np.ndarray:
    """Mask of the runs that are what the record says, such as its variant."""
    used = selection.used
    same = np.full(len(used), True)
    for name, values in record.get("of", {}).items():
        if name in used.columns:
            same &= np.array([(pd.isna(value) and not strict) or said(value) in values for value in used[name]])
        elif strict:
            same[:] = False
    return same


def _refuse(record: Mapping[str, Any], selection: Selection, near: np.ndarray) -> None:
    there = constants(selection, near)
    for name, values in record.get("of", {}).items():
        if other := [value for value in there.get(name, []) if value not in values]:
            raise UserError(
                f"score: the prediction is of {name} {', '.join(values)}, and runs of that size have {name} "
                f"{', '.join(other)}; expected the runs that were predicted"
            )
    raise UserError("score: runs of that size do not say that they are what was predicted; expected those that do")


def _was_there(record: Mapping[str, Any], selection: Selection) -> np.ndarray:
    """Mask of the runs that had a value when the prediction was registered."""
    if record.get("version", 0) < _FIRST_THERE:
        if float(record.get("decades_beyond", 0)) <= math.log10(1 + NEAR):
            raise UserError(
                "score: an older drorae registered it, which did not keep which runs of that size were there; "
                "expected a prediction registered by this one"
            )
        return np.full(len(selection.x), False)
    names = {name for name, _ in record["there"] if name}
    values = np.array([value for name, value in record["there"] if not name])
    return np.array(
        [
            key in names if key else bool(np.isclose(values, value, rtol=1e-9, atol=0).any())
            for key, value in zip(_identities(selection.used), selection.y, strict=True)
        ]
    )


@dataclass(frozen=True)
class Entry:
    """A registered prediction and how it did."""

    place: str
    """The record's file or run."""
    sweep: str
    """The experiment or folder that it was registered for."""
    record: Mapping[str, Any]
    score: Score | None = None
    why: str = ""
    """Why there is no score; empty where there is one."""
    awaited: bool = False
    """Whether the runs have not come in yet."""

    @property
    def text(self) -> str:
        """The entry as a line."""
        if self.score is not None:
            return self.score.text + ("" if self.trusted else " [extrapolated]")
        known = {"x", "y", "at"} <= set(self.record) and isinstance(self.record["at"], float | int)
        what = f"{self.record['y']} at {self.record['x']} = {self.record['at']:.4g}: " if known else ""
        return f"{what}{'awaited' if self.awaited else 'not scored'}: {self.why}"

    @property
    def trusted(self) -> bool:
        """Whether the size lay within the horizon."""
        return bool(self.record.get("trusted", True))


def judged(place: str, sweep: str, record: Mapping[str, Any], selection: Selection, strict: bool = False) -> Entry:
    """Returns a record with its score, or with why there is none."""
    try:
        return Entry(place, sweep, record, score(record, arrived(record, selection, strict)))
    except UserError as error:
        return unscored(place, sweep, record, error)


def unscored(place: str, sweep: str, record: Mapping[str, Any], error: UserError) -> Entry:
    """Returns a record that could not be scored."""
    return Entry(place, sweep, record, None, str(error).removeprefix("score: "), isinstance(error, AwaitedError))


@dataclass(frozen=True)
class Calibration:
    """How many of the 95% intervals held."""

    hits: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """The share of such intervals that hold: exact 95% interval (Clopper and Pearson 1934)."""
        found = stats.binomtest(self.hits, self.count).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def verdict(self) -> str:
        """What the count says, as the back-tests are judged."""
        misses = self.count - self.hits
        if misses > allowed_misses(self.count):
            return "more miss than of 95% intervals: they are too narrow, or the laws do not hold there"
        if not tells_apart(misses, self.count):
            return "too few to tell 95% intervals from ones that hold every second time"
        if self.interval[0] > 0.95:
            return "fewer miss than of 95% intervals: they are wider than they need to be"
        return "no more miss than of 95% intervals"

    @property
    def text(self) -> str:
        """The count, its interval and what they say."""
        low, high = self.interval
        held = f"{self.hits} of {self.count} inside their 95% interval"
        return f"{held}, {self.hits / self.count:.0%} (exact 95% interval {low:.0%} .. {high:.0%}): {self.verdict}"

    def tree(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"hits": self.hits, "count": self.count, "interval95": list(self.interval), "verdict": self.verdict}


def calibration(entries: Iterable[Entry], trusted: bool = True) -> Calibration | None:
    """Returns the count of the scored predictions within the horizon, or of those beyond; None where there are none.

    A prediction that was registered again from the same data counts once.
    """
    seen: dict[str, bool] = {}
    for item in entries:
        if item.score is not None and item.trusted == trusted:
            names = ("x", "y", "at", "seeds", "data_sha256", "of")
            key = json.dumps([item.record.get(name) for name in names], sort_keys=True)
            seen.setdefault(key, item.score.inside)
    return Calibration(sum(seen.values()), len(seen)) if seen else None


@dataclass(frozen=True)
class Record:
    """The registered predictions of a sweep, and of everything beside it."""

    own: tuple[Entry, ...]
    everywhere: tuple[Entry, ...] = ()
    """Those of all sweeps of a tracking server, the sweep's own among them; empty where there is no server."""

    def lines(self) -> list[str]:
        """The record as lines for a terminal; none where nothing was registered."""
        if not self.own and not self.everywhere:
            return []
        lines = [f"registered predictions: {_counted(self.own)}", *(f"  {item.text}" for item in self.own)]
        lines += _calibrated(self.own, "calibration")
        others = {item.sweep for item in self.everywhere}
        if self.everywhere and len(self.everywhere) > len(self.own):
            what = f"calibration over all {len(others)} sweeps of this tracking server"
            lines += [f"  all sweeps: {_counted(self.everywhere)}", *_calibrated(self.everywhere, what)]
        return lines

    def tree(self) -> dict[str, Any]:
        """The record as plain values."""
        parts: dict[str, Sequence[Entry]] = {"own": self.own, "all_sweeps": self.everywhere}
        found: dict[str, Any] = {"predictions": [_entry_tree(item) for item in self.everywhere or self.own]}
        for name, entries in parts.items():
            within, beyond = calibration(entries), calibration(entries, trusted=False)
            found[name] = {
                "registered": len(entries),
                "calibration": within.tree() if within else None,
                "extrapolated": beyond.tree() if beyond else None,
            }
        return found


def _counted(entries: Sequence[Entry]) -> str:
    scored = sum(item.score is not None for item in entries)
    awaited = sum(item.awaited for item in entries)
    left = len(entries) - scored - awaited
    return f"{scored} scored, {awaited} awaited" + (f", {left} that cannot be scored" if left else "")


def _calibrated(entries: Sequence[Entry], what: str) -> list[str]:
    within, beyond = calibration(entries), calibration(entries, trusted=False)
    lines = [f"  {what}: {within.text}"] if within else []
    return lines + ([f"  {what}, extrapolated beyond the horizon: {beyond.text}"] if beyond else [])


def _entry_tree(item: Entry) -> dict[str, Any]:
    found = item.score
    return {
        "place": item.place,
        "sweep": item.sweep,
        **{name: item.record.get(name) for name in ("x", "y", "at", "seeds", "date", "trusted")},
        "prediction95": item.record.get("envelope"),
        "value": None if found is None else found.value,
        "inside": None if found is None else found.inside,
        "interval_score": None if found is None else found.interval_score,
        "awaited": item.awaited,
        "why": item.why,
    }

"""The rows that a fit may use, why each other row may not be used, and what must be the same in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.table.best_of import Best, choose_best
from analysis.table.cells import SIZES, VALUES, floats, out_of_range
from analysis.table.columns import bad_cell, find_column, numbers, texts
from analysis.table.configurations import check_repeats, configuration_columns, number_groups
from analysis.table.decoders import check_decoders
from analysis.table.join import SOURCE
from analysis.table.measured import average_size
from analysis.table.trackers import adopt, check_history, plain, status_of
from drorae.errors import UserError
from drorae.metrics import registry
from drorae.trial.folder import CHECKS_CONVERGENCE, ROLE, TrialStatus

_METRIC_COLUMNS = ("metric", "metric_name", "extractor", "feature_extractor", "fid_tool", "dataset", "split")
"""Columns of a table that say what its numbers measure."""

_IMAGE_FIELDS = ("source", "path", "val_path", "val_fraction", "size", "val_images", "seed")
"""Fields of a trial's `images` that choose or cut the validation images (`drorae.config.ImagesConfig`)."""

_NO_MATTER = ("evaluation.batch_size", "evaluation.extractors")
"""Fields of `evaluation` that change no number of a given metric."""

_CHECK = "checks convergence: repeats another trial with twice the epochs"


@dataclass(frozen=True)
class Selection:
    """The runs a fit uses, and those it does not.

    `used` keeps the table's columns and index; `excluded` holds (row label, reason) in table order.
    `x` and `y` are the numbers of the used rows, in the order of `used`.
    """

    used: pd.DataFrame
    excluded: tuple[tuple[str, str], ...]
    x_name: str
    x_column: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]
    eval_images: int | None
    """Number of images every used value was measured on; None where the table does not say."""
    pruned: pd.DataFrame | None = None
    """Rows of runs that a scheduler stopped early, if any were left out; of a tuned sweep none, as its best decide."""
    best: tuple[Best, ...] = ()
    """What every used row was chosen from, in the order of `used`; empty where nothing was chosen."""
    averaged: tuple[str, ...] = ()
    """Columns of sizes that differed between seeds and were averaged (`average_size`)."""
    checks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows of usable runs that check convergence, which no law is fitted to."""
    check_x: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Their sizes, shape (checks,)."""
    check_y: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Their values, shape (checks,)."""

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The seed of every used row as text; empty where the table has none."""
        return seed_texts(self.used)

    @cached_property
    def mark(self) -> str:
        """Whose features the metric is measured in where training or the tokenizer looks through them, too."""
        return registry.mark(plain(self.y_name), texts(self.used, registry.LOOKED_THROUGH))

    @property
    def y_said(self) -> str:
        """The metric with its mark, for texts."""
        return registry.marked(self.y_name, self.mark)

    @cached_property
    def configurations(self) -> np.ndarray:
        """Number of the configuration of every used row, in order of first appearance, shape (rows,).

        Rows of one configuration agree in x and in every column of `configuration_columns`, and so differ in seed
        alone. Without seeds they are repeats as well.
        """
        return number_groups(self.used, configuration_columns(self.used), x=self.x)

    @cached_property
    def flattery(self) -> np.ndarray:
        """By how much the value of every used row is flattered by having been chosen (`Best`), shape (rows,)."""
        return np.array([item.flattery for item in self.best]) if self.best else np.zeros(len(self.x))

    def take(self, chosen: np.ndarray) -> Selection:
        """Returns the selection with the used rows for which `chosen`, a mask of shape (rows,), holds."""
        rows = np.flatnonzero(chosen)
        labels, best = tuple(self.labels[i] for i in rows), tuple(self.best[i] for i in rows if self.best)
        return replace(
            self, used=self.used.iloc[rows], excluded=(), x=self.x[rows], y=self.y[rows], labels=labels, pruned=None,
            best=best, checks=self.checks.iloc[:0], check_x=np.zeros(0), check_y=np.zeros(0),
        )  # fmt: skip


def select(
    frame: pd.DataFrame,
    x: str,
    y: str,
    include: Iterable[str] = (),
    log: bool = True,
    by: str = "",
    second: str = "",
) -> Selection:
    """Selects the rows that a fit of `y` on `x` may use, and says why each other row may not be used.

    Left out, by name: a status other than finished unless `include` names it; x or y missing, no number, not finite
    or out of range; a run of a tuned sweep that is not the best of its size; a run that checks convergence; x not
    positive where `log`; no number of evaluation images where other rows have one; a config_hash or run_id that an
    earlier used row has; a row that states its seed and is the copy of an earlier one. A table without a status column
    counts as finished.

    Args:
        frame: one row per run.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: column of the metric.
        include: statuses to use beside finished.
        log: whether the law takes the logarithm of x.
        by: column that tells designs apart, which may account for different decoders; none by default.
        second: column of a second size; none by default.

    Raises:
        UserError: no such column or status, x and y the same column, a column without numbers, nothing left, or
            used rows that do not measure the same thing (`check_measurements`), do not start from the same decoder
            (`check_decoders`) or are no repeats where they look like them (`check_repeats`).
    """
    include, frame = tuple(include), adopt(frame)
    x_column, y_column = _columns(frame, x, y, include)
    x_values, y_values = numbers(frame, x_column), numbers(frame, y_column)
    reasons = _reasons(frame, {TrialStatus.FINISHED, *include}, {x_column: x_values, y_column: y_values})
    _mark_unusable(x_column, x_values, SIZES, reasons, log)
    _mark_unusable(y_column, y_values, (0.0, VALUES[1]), reasons)
    counts, labels = _mark_uncounted(frame, y, reasons), _labels(frame)
    _mark_copies(frame, labels, reasons)
    checks = _checks(reasons, x_values, y_values)
    kept = _kept(reasons, f"{y} on {x}", y_values)
    used = frame.iloc[kept]
    apart, seeds = tuple(filter(None, (by, second))), seed_texts(used)
    check_measurements(used, y)
    check_decoders(used, y, by=by)
    sizes = average_size(used, x_column, x_values[kept], seeds, apart, log)
    averaged = (x_column,) * bool(np.any(sizes != x_values[kept]))
    check_repeats(used, sizes, seeds, (y_column, x_column, *apart))
    best = choose_best(used, sizes, y_values[kept], seeds, y, apart)
    if best:
        chosen = [int(kept[item.row]) for item in best]
        for i in set(kept) - {*chosen}:
            reasons[i] = f"tried; another {', '.join(frame.attrs['best_of'])} was better at this size and seed"
        kept, used, sizes = chosen, frame.iloc[chosen], sizes[[item.row for item in best]]
    excluded = tuple((label, reason) for label, reason in zip(labels, reasons, strict=True) if reason)
    return Selection(
        used, excluded, x, x_column, y, sizes, y_values[kept], tuple(labels[i] for i in kept),
        int(counts[kept[0]]) if np.isfinite(counts[kept[0]]) else None,
        _stopped(frame, include), tuple(best), averaged, frame.iloc[checks], x_values[checks], y_values[checks],
    )  # fmt: skip


def _columns(frame: pd.DataFrame, x: str, y: str, include: Sequence[str]) -> tuple[str, str]:
    """The columns of size and metric, where they are two, and the statuses to include are known."""
    if unknown := [name for name in include if name not in [*TrialStatus]]:
        raise UserError(f"include {unknown[0]}: no such status; statuses: {', '.join(TrialStatus)}")
    x_column, y_column = find_column(frame, x), find_column(frame, y)
    if x_column == y_column:
        raise UserError(f"{y} on {x}: both are the column {y}; expected a size for x and a metric for y")
    check_history(frame, x_column, f"{y} on {x}", configuration_columns(frame))
    return x_column, y_column


def _kept(reasons: Sequence[str], what: str, y: np.ndarray) -> list[int]:
    """The rows that nothing rules out, where their values y (rows,) are not all too small to compute with."""
    kept = [i for i, reason in enumerate(reasons) if not reason]
    if not kept:
        reason, count = Counter(reasons).most_common(1)[0]
        what = f"{what}: none of {len(reasons)} rows can be used ({count} x {reason})"
        raise UserError(f"{what}; expected finished runs with both numbers")
    if problem := out_of_range(float(np.abs(y[kept]).max()), *VALUES):
        raise UserError(f"{what}: the largest value {problem}")
    return kept


def _checks(reasons: Sequence[str], x: np.ndarray, y: np.ndarray) -> list[int]:
    """The rows that check convergence and have both numbers, x and y (rows,)."""
    return [i for i, reason in enumerate(reasons) if reason == _CHECK and np.isfinite([x[i], y[i]]).all()]


def _stopped(frame: pd.DataFrame, include: Sequence[str]) -> pd.DataFrame | None:
    """Rows of runs that a scheduler stopped early, where there are any that are left out for it."""
    stopped = [status.lower() == TrialStatus.PRUNED for status in texts(frame, "status")]
    tuned = any("best" in role for role in texts(frame, "tuning"))
    return frame[stopped] if any(stopped) and TrialStatus.PRUNED not in include and not tuned else None


def seed_texts(frame: pd.DataFrame) -> tuple[str, ...]:
    """The seed of every row as text; empty where the table has none."""
    column = frame["seed"] if "seed" in frame.columns else [None] * len(frame)
    return tuple(
        "" if pd.isna(item) else f"{item:.0f}" if isinstance(item, float) and item.is_integer() else str(item).strip()
        for item in column
    )


def _labels(frame: pd.DataFrame) -> list[str]:
    """Every row by its number in the file and the name of its run."""
    numbered = frame.index.is_unique and pd.api.types.is_integer_dtype(frame.index)
    if SOURCE in frame.columns and pd.api.types.is_string_dtype(frame.index):
        return [str(row) for row in frame.index]
    rows = [int(i) + 1 for i in frame.index] if numbered else range(1, len(frame) + 1)
    names = [key or run[:8] for key, run in zip(texts(frame, "config_hash"), texts(frame, "run_id"), strict=True)]
    return [f"row {row}" + (f" ({name})" if name else "") for row, name in zip(rows, names, strict=True)]


def _reasons(frame: pd.DataFrame, allowed: set[str], columns: Mapping[str, np.ndarray]) -> list[str]:
    """Why a row's status, its part in a search or one of the `columns` rules it out; empty where nothing does."""
    statuses, notes, roles, purposes = (texts(frame, name) for name in ("status", "reason", "tuning", ROLE))
    tuned = any("best" in role for role in roles)
    reasons = []
    for i in range(len(frame)):
        status = status_of(statuses[i]) if "status" in frame.columns else TrialStatus.FINISHED
        bad = next((name for name, values in columns.items() if not np.isfinite(values[i])), None)
        if status not in allowed:
            reasons.append(f"status {statuses[i].lower() or 'empty'}" + (f": {notes[i]}" if notes[i] else ""))
        elif purposes[i] == CHECKS_CONVERGENCE:
            reasons.append(_CHECK)
        elif tuned and "best" not in roles[i]:
            reasons.append("tried while tuning; another run of this size was better")
        else:
            reasons.append("" if bad is None else f"{bad} {bad_cell(frame[bad].iloc[i])}")
    return reasons


def _mark_uncounted(frame: pd.DataFrame, y: str, reasons: list[str]) -> np.ndarray:
    """Numbers of images of all rows; gives a reason to every row without one where others have it."""
    size = sample_column(frame, y)
    counts = floats(frame[size]) if size else np.full(len(frame), np.nan)
    for i in np.flatnonzero(~np.isfinite(counts)).tolist() if np.isfinite(counts).any() else ():
        reasons[i] = reasons[i] or f"{size} {bad_cell(frame[str(size)].iloc[i])}, and other rows have it"
    return counts


def _mark_unusable(
    name: str, values: np.ndarray, limits: tuple[float, float], reasons: list[str], log: bool = False
) -> None:
    """Gives a reason to rows whose number has no logarithm that is wanted, or cannot be computed with."""
    least, most = limits
    for i in np.flatnonzero(values <= 0).tolist() if log else ():
        reasons[i] = reasons[i] or f"{name} is {values[i]:g}, which has no logarithm"
    for i in np.flatnonzero((np.abs(values) > most) | ((np.abs(values) < least) & (values != 0))).tolist():
        reasons[i] = reasons[i] or f"{name} {out_of_range(values[i], least, most)}"


def _mark_copies(frame: pd.DataFrame, labels: Sequence[str], reasons: list[str]) -> None:
    """Gives a reason to every row that repeats an earlier usable one."""
    seen: dict[str, str] = {}
    kinds = ("same config_hash as", "same run_id as", "a copy of")
    for i, keys in enumerate(zip(texts(frame, "config_hash"), texts(frame, "run_id"), _copies(frame), strict=True)):
        if reasons[i]:
            continue
        reasons[i] = next((f"{kind} {seen[key]}" for kind, key in zip(kinds, keys, strict=True) if key in seen), "")
        if not reasons[i]:
            seen |= {key: labels[i] for key in keys if key}


def _copies(frame: pd.DataFrame) -> list[str]:
    """A key per row that rows with a stated seed share with their exact copies; empty where no seed is stated."""
    seeds = texts(frame, "seed")
    if not any(seeds) or all(texts(frame, "config_hash")):
        # A hash, where every row has one, tells copies already.
        return [""] * len(frame)
    first = frame.drop(columns=["run_id", "run_url"], errors="ignore").astype(str)
    groups = first.groupby(list(first.columns), sort=False, dropna=False).ngroup()
    return [f"copy {group}" if seed else "" for group, seed in zip(groups, seeds, strict=True)]


def sample_column(frame: pd.DataFrame, y: str) -> str | None:
    """The column that holds how many images a value of `y` was measured on: `<y>_n`, `<y>_images`, else eval_images.

    None where there is none, and of the generator's loss, which is of its training.
    """
    if y == registry.GENERATOR_LOSS:
        return None
    return next((name for name in (f"{y}_n", f"{y}{registry.COUNT}", "eval_images") if name in frame.columns), None)


def check_measurements(used: pd.DataFrame, y: str) -> None:
    """Refuses rows that do not measure the same thing.

    Raises:
        UserError: values of different numbers of images (the Frechet distance falls with it), metrics, data sets
            or evaluation settings.
    """
    sample = sample_column(used, y)
    if sample is not None:
        counts = pd.Series(floats(used[sample])).dropna().value_counts().sort_index()
        if len(counts) > 1:
            listed = ", ".join(f"{number:.0f} ({rows} rows)" for number, rows in counts.items())
            what = f"{y}: rows measured on different {sample}, {listed}; expected one number"
            remedy = f"keep the rows of one with where {sample}={counts.index[-1]:.0f}"
            raise UserError(f"{what}: the Frechet distance depends on it; {remedy}")
    fields = [name for name in used.columns if str(name).startswith("evaluation.") and name not in _NO_MATTER]
    fields += [f"images.{name}" for name in _IMAGE_FIELDS]
    for name in (*_METRIC_COLUMNS, *fields):
        if name not in used.columns or name == y:
            continue
        values = used[name].dropna().astype(str).value_counts()
        if len(values) > 1:
            listed = ", ".join(f"{value} ({rows} rows)" for value, rows in values.head(4).items())
            what = f"{y}: rows of different {name}, {listed}; expected one: their values measure different things"
            raise UserError(f"{what}; keep the rows of one with where {name}={values.index[0]}")

"""Published numbers beside measured ones: a table, and where their orders differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.designs import holm

NAMED = 7
"""Rows of a table whose pairs in another order than the published are named one by one."""


@dataclass(frozen=True)
class Cell:
    """A published number and what was measured."""

    published: float | None
    measured: tuple[float, ...] = ()
    """One value a seed; empty where nothing measures it."""

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None where nothing was measured."""
        return float(np.mean(self.measured)) if self.measured else None

    def text(self) -> str:
        """The measured mean with its standard error over the seeds, where there are several."""
        if not self.measured:
            return "-"
        if len(self.measured) < 2:
            return f"{self.measured[0]:.4g}"
        error = float(np.std(self.measured, ddof=1)) / len(self.measured) ** 0.5
        return f"{self.mean:.4g} ± {error:.2g}"


@dataclass(frozen=True)
class Reproduction:
    """Rows by name, each with a cell for every published column."""

    rows: Mapping[str, Mapping[str, Cell]]
    metrics: Mapping[str, str]
    """What was measured for each published column; empty: nothing."""

    def beside(self, other: Reproduction) -> Reproduction:
        """Returns the same rows with another's columns behind their own."""
        rows = {name: {**cells, **other.rows[name]} for name, cells in self.rows.items()}
        return Reproduction(rows, {**self.metrics, **other.metrics})

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Returns header and rows of text: for each column what is published and what was measured."""
        header = ["row"]
        for column, metric in self.metrics.items():
            header += [f"{column} (paper)", *([metric] if metric else [])]
        found = []
        for name, cells in self.rows.items():
            row = [name]
            for column, metric in self.metrics.items():
                cell = cells.get(column, Cell(None))
                row += ["-" if cell.published is None else f"{cell.published:g}", *([cell.text()] if metric else [])]
            found.append(row)
        return header, found

    def frame(self) -> pd.DataFrame:
        """Returns one line for each row, column and seed, ready for CSV."""
        lines = [
            {
                "row": name,
                "column": column,
                "published": cell.published,
                "metric": self.metrics[column],
                "measured": value,
            }
            for name, cells in self.rows.items()
            for column, cell in cells.items()
            for value in cell.measured or (None,)
        ]
        return pd.DataFrame(lines)

    def orders(self) -> list[str]:
        """Says for each column how many pairs of rows are in the published order, and which are not, in short tables.

        With several seeds a pair counts only where a t test with Holm's correction over the column's pairs tells its
        rows apart at 5%; with one there is no error to tell them by, which is said.
        """
        return [line for column, metric in self.metrics.items() if metric for line in self._order(column, metric)]

    def _order(self, column: str, metric: str) -> list[str]:
        cells = {name: cells[column] for name, cells in self.rows.items() if column in cells}
        known = {name: cell for name, cell in cells.items() if cell.published is not None and cell.measured}
        pairs = [
            (one, other)
            for one, other in itertools.combinations(known, 2)
            if known[one].published != known[other].published
        ]
        if not pairs:
            return []
        seeds = min(len(cell.measured) for cell in known.values())
        told = _told_apart(pairs, known) if seeds > 1 else dict.fromkeys(pairs, True)
        agree: list[tuple[str, str]] = []
        differ: list[tuple[str, str]] = []
        for pair in pairs:
            first, second = (known[name] for name in pair)
            assert first.published is not None and second.published is not None
            assert first.mean is not None and second.mean is not None
            same = (first.published - second.published) * (first.mean - second.mean) > 0
            (agree if same else differ).append(pair)
        clear = [pair for pair in differ if told[pair]]
        text = f"{column} by {metric}: {len(agree)} of {len(pairs)} pairs in the published order"
        if seeds < 2:
            text += " (one seed: no error to tell rows apart by)"
        else:
            text += f"; told apart by {seeds} seeds: {sum(told.values())}, of these against the paper: {len(clear)}"
        ranks = stats.kendalltau(*zip(*((cell.published, cell.mean) for cell in known.values()), strict=True))
        lines = [f"{text}; Kendall's tau {ranks.statistic:.2f} (p {ranks.pvalue:.2g})"]
        for one, other in (clear if seeds > 1 else differ) if len(known) <= NAMED else ():
            first, second = known[one], known[other]
            lines.append(
                f"  differs: {one} {first.text()}, {other} {second.text()} "
                f"(paper: {first.published:g}, {second.published:g})"
            )
        return lines


def _told_apart(pairs: Sequence[tuple[str, str]], cells: Mapping[str, Cell]) -> dict[tuple[str, str], bool]:
    """Which pairs a Welch t test tells apart at 5%, Holm's correction over all."""
    p_values = []
    for one, other in pairs:
        first, second = np.asarray(cells[one].measured), np.asarray(cells[other].measured)
        if first.std() == 0 and second.std() == 0:
            p_values.append(0.0 if first.mean() != second.mean() else 1.0)
        else:
            p_values.append(float(stats.ttest_ind(first, second, equal_var=False).pvalue))
    return {pair: bool(p <= 0.05) for pair, p in zip(pairs, holm(p_values), strict=True)}


def reproduce(
    frame: pd.DataFrame,
    rows: Mapping[str, Sequence[str]],
    published: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, str],
    prefixes: Mapping[str, str],
) -> Reproduction:
    """Puts published numbers beside those of a table of trials.

    Args:
        frame: a row for each trial, with `config_hash`.
        rows: config hashes of each row's trials, one a seed, by the row's name.
        published: the paper's numbers, by row and column.
        metrics: the column of `frame` that measures each of the paper's columns; empty: none.
        prefixes: what stands before a metric's name for a row, such as `phase2.`; none by default.
    """
    by_hash = frame.set_index("config_hash")
    found = {}
    for name, hashes in rows.items():
        cells = {}
        for column, value in published[name].items():
            metric = metrics.get(column, "")
            measured = f"{prefixes.get(name, '')}{metric}"
            values: list[float] = []
            if metric and measured in by_hash.columns:
                chosen = pd.to_numeric(by_hash[measured].reindex(list(hashes)), errors="coerce")
                values = [float(each) for each in chosen.dropna()]
            cells[column] = Cell(value, tuple(values))
        found[name] = cells
    return Reproduction(found, metrics)

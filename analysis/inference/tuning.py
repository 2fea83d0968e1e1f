"""The law of the best against the law at fixed values, where a sweep was tuned at every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference.designs import DesignComparison, compare_designs
from analysis.laws.line import Law
from analysis.table.cells import floats
from analysis.table.columns import find_column
from analysis.table.configurations import CONFIG_FIELDS
from analysis.table.decoders import DECODER, check_decoders
from drorae.errors import UserError
from drorae.trial.folder import TrialStatus

COLUMN = "tuning"
"""What a run of a tuned sweep is: `best`, `fixed` (at the base config's own values), `best fixed`, or `tried`."""
DESIGN = "tuned"
"""Column of the comparison: `best` or `fixed`."""


@dataclass(frozen=True)
class TuningEffect:
    """What tuning at every size changed."""

    sizes: int
    """Sizes with both a best and a fixed run."""
    moved: int
    """Sizes at which the best is not the base config's own."""
    fresh: bool
    """Whether the runs compared are repeats with seeds that the search did not choose by."""
    values: tuple[tuple[float, dict[str, Any]], ...]
    """Per size the best values of the searched fields."""
    comparison: DesignComparison | None
    """Best against fixed, paired by size; None where nothing moved."""

    def text(self) -> str:
        """Plain lines for a terminal."""
        lines = [f"tuned at {self.sizes} sizes; the best values differ from the fixed ones at {self.moved}"]
        for size, found in self.values:
            lines.append(f"  {size:.6g}: " + ", ".join(f"{name} {_short(value)}" for name, value in found.items()))
        if not self.fresh:
            lines.append(
                "  note: the best is the best of several tries on the same metric and seed, which flatters it; "
                "more than one seed repeats the best and the fixed values on seeds nothing was chosen by "
                "[chosen-by-the-metric]"
            )
        if self.comparison is not None:
            lines.append(self.comparison.text())
        return "\n".join(lines)

    def tree(self) -> dict[str, Any]:
        """The same as plain values: sizes, moved, fresh, values (size, best), comparison (see `DesignComparison`)."""
        values = [{"size": size, "best": found} for size, found in self.values]
        comparison = None if self.comparison is None else self.comparison.as_json()
        return {**vars(self), "values": values, "comparison": comparison}


def compare_tuned(frame: pd.DataFrame, x: str, y: str, law: Law = "log-linear") -> TuningEffect:
    """Compares the runs at the best values of each size with those at fixed values, size by size.

    Args:
        frame: the trials of a tuned sweep, one per row, with the column `tuning`.
        x: column of the size, or params, capacity, layers (`X_ALIASES`).
        y: column of the metric.
        law: what the two lines are straight in, log10(x) (log-linear) or x (linear).

    Where a size was run with several seeds, the seed that the search chose by is left out: its best run is the
    best of many, and would be flattered by that alone. The two slopes and the intervals of their difference are
    `compare_designs`', paired.

    >>> sizes = [1e6, 3e6, 1e7, 3e7, 1e8]
    >>> noise = [0.01, -0.02, 0.01, 0.01, -0.01]
    >>> rows = [("fixed", size, 9 - i + e) for i, (size, e) in enumerate(zip(sizes, noise))]
    >>> rows += [("best", size, 9 - 1.5 * i - e) for i, (size, e) in enumerate(zip(sizes, noise))]
    >>> found = compare_tuned(pd.DataFrame(rows, columns=["tuning", "params", "rfid"]), "params", "rfid")
    >>> found.moved, round(found.comparison.differences[0].difference, 1)
    (5, -1.0)

    Raises:
        UserError: a table without the column `tuning`, or without sizes that have both kinds of runs; what
            `compare_designs` refuses.
    """
    if COLUMN not in frame.columns:
        raise UserError(f"no column {COLUMN} in the table; expected the trials.csv of a sweep with --tune")
    frame = frame.assign(**{COLUMN: frame[COLUMN].fillna("").astype(str)})
    size = find_column(frame, x)
    searched = [name for name in map(str, frame.columns) if name in CONFIG_FIELDS]
    tried = set(frame.loc[frame[COLUMN] == "tried", "seed"]) if "seed" in frame.columns else set()
    chosen = frame[~frame["seed"].isin(tried)] if tried else frame
    fresh = bool(tried and chosen[COLUMN].str.contains("best").any())
    if not fresh:
        chosen = frame
    done = chosen["status"] == TrialStatus.FINISHED if "status" in chosen.columns else pd.Series(True, chosen.index)
    chosen = chosen[done.to_numpy() & np.isfinite(floats(chosen[y]))]
    best, fixed = (chosen[chosen[COLUMN].str.contains(kind)].assign(**{DESIGN: kind}) for kind in ("best", "fixed"))
    shared = sorted(set(best[size]) & set(fixed[size]))
    if not shared:
        raise UserError(f"{y}: no size has both a run at its best values and one at the fixed values")
    moved = set(shared) - set(chosen.loc[chosen[COLUMN] == "best fixed", size])
    varied = [name for name in searched if frame[name].nunique() > 1]
    found = best.drop_duplicates(size).set_index(size, drop=False)[varied].to_dict("index")
    comparison = None
    if moved:
        # Columns that tell a best run from a fixed one by other means would make two configurations of one.
        both = pd.concat([best, fixed], ignore_index=True)
        both = both[both[size].isin(shared)]
        check_decoders(both, y)
        both = both.drop(columns=[COLUMN, DECODER, "config_hash", "run_id", "run_url", *searched], errors="ignore")
        comparison = compare_designs(both, x, y, DESIGN, law, paired=True)
    values = tuple((float(value), found[value]) for value in shared)
    return TuningEffect(len(shared), len(moved), fresh, values, comparison)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

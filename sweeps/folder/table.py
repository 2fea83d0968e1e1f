"""A sweep's table: one row per trial, read from what the trials left on disk."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drorae.config import TrialConfig, config_hash, flatten
from drorae.metrics.registry import BASELINE, GAIN, LOOKED_THROUGH, METRICS, OWN_NETWORK, looked_through, mark
from drorae.storage.files import write_atomic
from drorae.trial.folder import ROLE, SKIPPED, read_outcome
from sweeps.spec import as_cell, read_field, varied_fields

COLUMNS = (
    "config_hash", "variant", "incremental", "expert_hidden_dim", "num_layers", "seed", "fusion_params",
    "fusion_params_paper", *(metric.name for metric in METRICS if metric.column), "eval_images", "train_seconds",
    "eval_seconds", "device_seconds", "train_flops", "status", "reason",
)  # fmt: skip
"""Always there, in this order; other metrics, the baseline's, gains over it and the swept fields follow."""
_IN_COLUMNS = ("fusion.variant", "fusion.incremental", "fusion.expert_hidden_dim", "fusion.num_layers", "seed")


def trial_row(config: TrialConfig, directory: Path, varied: Sequence[str] = ()) -> dict[str, Any]:
    """One trial as a flat row: metrics by their plain names, `varied` fields by theirs.

    The baseline's metrics are `baseline_...`, gains over it `gain_...`.
    """
    outcome = read_outcome(directory)
    row: dict[str, Any] = {
        "config_hash": config_hash(config),
        "variant": config.fusion.variant,
        "incremental": config.fusion.incremental,
        "expert_hidden_dim": config.fusion.expert_hidden_dim,
        # 0 stands for all layers of an encoder that nothing has opened yet.
        "num_layers": config.fusion.count or "",
        "seed": config.seed,
    }
    for name in varied:
        if name not in _IN_COLUMNS:
            row[name] = as_cell(read_field(config, name))
    # An earlier version knew the trial by another hash.
    row |= {name: value for name, value in outcome.items() if not isinstance(value, dict) and name != "config_hash"}
    if digest := outcome.get("weights", {}).get("phase1_decoder"):
        row["phase1_weights"] = digest[:16]
    if skipped := outcome.get("provenance", {}).get(f"note.{SKIPPED}"):
        row[SKIPPED] = skipped
    if seen := networks_of(config, outcome):
        row[LOOKED_THROUGH] = seen
    row |= {name: value for name, value in outcome.get("metrics", {}).items() if name != "eval_images"}
    baseline = outcome.get("baseline", {})
    row |= {f"{BASELINE}{name}": value for name, value in baseline.items() if name != "eval_images"}
    return row | {f"{GAIN}{name}": value for name, value in outcome.get("gain", {}).items()}


def networks_of(config: TrialConfig, outcome: Mapping[str, Any]) -> str:
    """Returns a trial's `LOOKED_THROUGH`, by its config and by what its outcome notes."""
    return looked_through(flatten(config), outcome.get("provenance", {}).get(f"note.{OWN_NETWORK}", ""))


def table_rows(
    configs: Sequence[TrialConfig],
    trials: Path,
    tuning: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """A sweep's rows.

    Args:
        configs: the sweep's trials, in row order.
        trials: the folder that holds one folder per trial, named by config hash.
        tuning: what each trial of a search is to the law, by config hash: the column of that name.
        roles: what trials that are no points of the law are there for, by config hash: the column `role`.
    """
    varied = varied_fields(configs)
    rows = [trial_row(config, trials / config_hash(config), varied) for config in configs]
    for row in rows if tuning else ():
        row["tuning"] = (tuning or {}).get(row["config_hash"], "")
    for row in rows if roles else ():
        row[ROLE] = (roles or {}).get(row["config_hash"], "")
    return rows


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Writes trials.csv atomically and returns how many trials have each status."""
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *extra], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
    return dict(Counter(str(row["status"]) for row in rows))


def charted_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics worth a chart that rows have values of, in the registry's order, those with a mark last."""
    charted = (metric.name for metric in METRICS if metric.charted)
    found = [name for name in charted if any(row.get(name) not in (None, "") for row in rows)]
    return sorted(found, key=lambda name: bool(marks(rows, [name])))


def marks(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Returns the marks (`drorae.metrics.registry`) of those metrics that have one in any of a table's rows."""
    seen = [str(row.get(LOOKED_THROUGH) or "") for row in rows]
    return {name: said for name in names if (said := mark(name, seen))}

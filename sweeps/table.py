"""The table of a sweep: one row per trial, from what stands in the trials' folders."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drorae.config import TrialConfig, config_hash, flatten
from drorae.errors import UserError

COLUMNS = (
    "config_hash", "variant", "incremental", "expert_hidden_dim", "num_layers", "seed", "fusion_params",
    "fusion_params_paper", "psnr", "ssim", "l1", "rfd_dinov2", "rfd_effnet", "eval_images", "train_seconds",
    "eval_seconds", "device_seconds", "loss_tail_drop", "status", "reason",
)  # fmt: skip
"""Always there, in this order; other metrics, the baseline's and the swept fields follow."""


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None where there is none to read."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def trial_row(config: TrialConfig, directory: Path, fields: Sequence[str] = ()) -> dict[str, Any]:
    """One trial's row. status: that of its result, else pruned, failed or missing, with the reason."""
    flat = flatten(config)
    row: dict[str, Any] = {
        "config_hash": config_hash(config),
        "variant": config.fusion.variant,
        "incremental": config.fusion.incremental,
        "expert_hidden_dim": config.fusion.expert_hidden_dim,
        "num_layers": config.fusion.num_layers or "",
        "seed": config.seed,
        "status": "missing",
    }
    row |= {name: _cell(flat[name]) for name in fields if name in flat and name.split(".")[-1] not in COLUMNS}
    result = read_json(directory / "result.json")
    if result is not None:
        metrics, baseline = result.pop("metrics", {}), result.pop("baseline", {})
        result.pop("provenance", None)
        row |= result | metrics | {f"baseline_{name}": value for name, value in baseline.items()}
        row["eval_images"] = int(result.get("eval_images") or 0)
        row.pop("baseline_eval_images", None)
        return row
    for status in ("pruned", "failed"):
        note = read_json(directory / f"{status}.json")
        if note is not None:
            return row | {"status": status, "reason": note.get("reason", "")}
    return row


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes trials.csv, atomically."""
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *extra], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text.getvalue())
    os.replace(temporary, path)


def status(name: str, root: str | Path = "runs") -> dict[str, int]:
    """How many trials of a sweep are finished, failed, missing, ...

    Raises:
        UserError: there is no such sweep.
    """
    folder = Path(root) / name
    saved = read_json(folder / "sweep.json")
    if saved is None:
        raise UserError(f"{folder}: no sweep here; expected a folder with sweep.json, made by drorae sweep")
    counts: Counter[str] = Counter()
    for key in saved["trials"]:
        result = read_json(folder / "trials" / key / "result.json")
        if result is not None:
            counts[result["status"]] += 1
        else:
            left = [name for name in ("pruned", "failed") if (folder / "trials" / key / f"{name}.json").is_file()]
            counts[left[0] if left else "missing"] += 1
    return dict(counts)

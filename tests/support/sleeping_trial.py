"""A stand-in for a trial that only sleeps, for measuring what a sweep costs around its trials."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, config_hash

SECONDS = 0.05
ROWS = 5
ENDED = "ended"
"""File of a byte per trial that has slept."""


def sleep_and_sign(folder: Path, report: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict[str, Any]]:
    """Sleeps, reports rows meanwhile, and leaves a byte in the folder's `ended`; returns the rows."""
    rows = []
    for step in range(1, ROWS + 1):
        time.sleep(SECONDS / ROWS)
        rows.append({"phase": "phase2", "step": float(step), "epoch": step / ROWS, "loss": 1 / step, "lr": 1e-3})
        report(rows[-1])
    with (folder / ENDED).open("a") as file:
        file.write(".")
    return rows


def prepare(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, Any]], None]) -> None:
    """Nothing is shared."""


def run_trial(
    config: TrialConfig, report: Callable[[dict[str, Any]], None], *, directory: Path, runtime: Runtime
) -> None:
    """Sleeps and leaves the files that a finished trial leaves, pictures and arrays apart."""
    rows = sleep_and_sign(Path(runtime.cache_dir), report)
    (directory / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "config_hash": config_hash(config),
        "status": "finished",
        "variant": config.fusion.variant,
        "expert_hidden_dim": config.fusion.expert_hidden_dim,
        "num_layers": 12,
        "seed": config.seed,
        "fusion_params": 1000 * config.fusion.expert_hidden_dim,
        "fusion_params_paper": 1000 * config.fusion.expert_hidden_dim,
        "metrics": {"psnr": 20.0, "ssim": 0.5, "l1": 0.1, "rfd_dinov2": 150.0, "eval_images": 4},
        "baseline": {"psnr": 9.0},
        "eval_images": 4,
        "train_seconds": SECONDS,
        "eval_seconds": 0.0,
        "device_seconds": SECONDS,
        "train_flops": 1e9 * config.fusion.expert_hidden_dim,
        "reason": "",
        "provenance": {"git_commit": "unknown"},
    }
    (directory / "result.json").write_text(json.dumps(result))

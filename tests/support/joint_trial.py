"""A stand-in for a trial in several processes, which go step by step together and end when they are told to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sleeping_trial
import torch.distributed

from drorae.config import Runtime, TrialConfig
from sweeps.folder import lease

# The processes of the trial look for their lease more often: a test waits for it.
lease.BEAT_SECONDS = 0.3
prepare = sleeping_trial.prepare


def run_trial(
    config: TrialConfig, report: Callable[[dict[str, Any]], None], *, directory: Path, runtime: Runtime
) -> None:
    """Leaves a line with its process's number; reports steps until there is a file `enough`, and then the result."""
    with (directory / "processes.log").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for step in range(1, 1000):
        time.sleep(0.1)
        # All see the file at the same step.
        enough = torch.tensor(float((directory / "enough").exists()))
        torch.distributed.all_reduce(enough)
        if enough:
            break
        report({"phase": "phase2", "step": float(step), "total_steps": 1000.0, "epoch": step / 1000, "loss": 1 / step})
    if torch.distributed.get_rank() == 0:
        sleeping_trial.run_trial(config, report, directory=directory, runtime=runtime)

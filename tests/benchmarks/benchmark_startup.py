"""Seconds until something is there: `drorae --help`, `drorae fit` of a small table, a trial's first step.

    python tests/benchmarks/benchmark_startup.py          # about two minutes on 2 cores

Every one in a process of its own, in turn with what it cannot do without: Python, scipy and pandas, torch.
The node is warm: programs in the page cache and compiled, features and the phase-1 decoder in drorae's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from alternate import COMMAND, alternate, arguments, record

from drorae.config import PRESETS, Runtime, TrialConfig
from drorae.trial.run import prepare, run_trial

FIRST_STEP = "--first-step"


def seconds(*command: str) -> float:
    """How long a process takes."""
    # Installed packages are compiled; one that Python may not compile here would be anew in every process.
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=compiled)
    return time.perf_counter() - began


def trial(folder: Path) -> tuple[TrialConfig, Runtime]:
    """The smallest preset's, its decoder in the folder's cache."""
    return PRESETS["smoke"], Runtime(device="cpu", cache_dir=str(folder / "cache"), log_steps=1)


def first_step(folder: Path) -> None:
    """Ends the process with the first step of phase 2."""

    def report(row: dict[str, float | str]) -> None:
        if row.get("phase") == "phase2":
            raise SystemExit(0)

    config, runtime = trial(folder)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        run_trial(config, report, directory=Path(directory), runtime=runtime)
    raise SystemExit("no step was reported")


def main() -> None:
    """Runs the comparisons and records them."""
    if sys.argv[1:2] == [FIRST_STEP]:
        first_step(Path(sys.argv[2]))
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = np.geomspace(1e6, 3e8, 12)
        y = 0.3 + 20 * x**-0.25 + np.random.default_rng(0).normal(0, 0.02, 12)
        np.savetxt(folder / "runs.csv", np.column_stack([x, y]), delimiter=",", header="params,rfid", comments="")
        prepare(*trial(folder))
        fit = (*COMMAND, "fit", str(folder / "runs.csv"), "--x", "params", "--y", "rfid")
        cases = (
            ("drorae --help", (*COMMAND, "--help"), 0.3, "pass"),
            ("drorae fit, 12 runs", fit, 2.0, "import scipy.stats, pandas"),
            ("first step of a trial", (sys.executable, __file__, FIRST_STEP, name), 8.0, "import torch"),
        )
        found = []
        for case, command, limit, code in cases:
            things = {
                case: partial(seconds, *command),
                f"python -c '{code}'": partial(seconds, sys.executable, "-c", code),
            }
            found.append(alternate(case, things, rounds=options.rounds, at_most=limit))
    record("startup", found, options.out, note="The second of each is what it cannot be quicker than.")


if __name__ == "__main__":
    main()

"""How much longer `drorae fit` takes for many different sizes than for eight.

    python tests/benchmarks/benchmark_sizes.py [SIZES ...]

Runs the command on tables of so many sizes (100, 300, 1500 and 20,000) and on one of eight, in turn, three times, and
prints the least seconds of each and their ratio: what a machine has to do besides meets both. Use one core
(OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FEW = 8
ROUNDS = 3


def write(path: Path, count: int) -> None:
    """A power law with offset over two and a half decades, every size once."""
    rng = np.random.default_rng(count)
    x = np.geomspace(1e6, 3e8, count)
    y = 0.3 + 20 * x**-0.25 + rng.normal(0, 0.02, count)
    np.savetxt(path, np.column_stack([x, y]), fmt="%.9g", delimiter=",", header="params,rfid", comments="")


def seconds(path: Path) -> float:
    """How long the command takes for a table, its report included."""
    arguments = ["fit", str(path), "--y", "rfid", "--x", "params", "--out", str(path.with_suffix(""))]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import sys; from drorae.commands.main import main; sys.exit(main())", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def main() -> None:
    """Prints seconds and ratios."""
    counts = [int(word) for word in sys.argv[1:]] or [100, 300, 1500, 20_000]
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / f"{FEW}.csv"
        write(few, FEW)
        for count in counts:
            many = Path(folder) / f"{count}.csv"
            write(many, count)
            taken = [(seconds(few), seconds(many)) for _ in range(ROUNDS)]
            short, long = (min(column) for column in zip(*taken, strict=True))
            said = f"{count} sizes: {long:.1f} s, {FEW} sizes: {short:.1f} s, ratio {long / short:.1f}"
            print(said, flush=True)


if __name__ == "__main__":
    main()

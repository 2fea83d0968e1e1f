"""How much longer `drorae fit` takes for many different sizes than for eight.

    python tests/benchmarks/benchmark_sizes.py [SIZES ...]

Runs the command on tables of so many sizes (100, 1500 and 20,000) and on one of eight, in turn. Use one core
(OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from alternate import COMMAND, alternate, arguments, record

FEW = 8


def write(path: Path, count: int) -> None:
    """A power law with offset over two and a half decades, every size once."""
    rng = np.random.default_rng(count)
    x = np.geomspace(1e6, 3e8, count)
    y = 0.3 + 20 * x**-0.25 + rng.normal(0, 0.02, count)
    np.savetxt(path, np.column_stack([x, y]), fmt="%.9g", delimiter=",", header="params,rfid", comments="")


def seconds(path: Path) -> float:
    """How long the command takes for a table, its report included."""
    options = ["fit", str(path), "--y", "rfid", "--x", "params", "--out", str(path.with_suffix(""))]
    began = time.monotonic()
    subprocess.run(
        [*COMMAND, *options],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def main() -> None:
    """Runs the comparisons and records them."""
    parser = arguments(__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[100, 1500, 20_000])
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / f"{FEW}.csv"
        write(few, FEW)
        for count in options.sizes:
            many = Path(folder) / f"{count}.csv"
            write(many, count)
            things = {f"{size} sizes": partial(seconds, path) for size, path in ((FEW, few), (count, many))}
            found.append(alternate(f"{FEW} and {count} sizes", things, rounds=options.rounds, warm_up=False))
    record("sizes", found, options.out)


if __name__ == "__main__":
    main()

"""How often trusted predictions miss where the truth breaks beyond the data: `python tests/calibration/broken.py`.

Points that look like a line to the largest size say nothing of what follows. Two rules of trust are compared on the
same data: the present horizon, which heeds the points' own evidence, and the one before, 0.3 decade beyond any data.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from analysis.inference.evidence import HORIZON, compare_laws
from analysis.laws.intervals import points

SMALLEST, LARGEST = 0.1, 10.0
DECADES = (0.1, 0.3)
BREAK = np.log10(1.1 * LARGEST)

TRUTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-linear": lambda u: 0.9 - 0.2 * u,
    "flat from the largest size on": lambda u: 0.9 - 0.2 * np.minimum(u, np.log10(LARGEST)),
    "turns at 1.1 times the largest size": lambda u: 0.9 - 0.2 * u + 0.4 * np.maximum(u - BREAK, 0),
    "logistic": lambda u: 0.5 + 0.8 / (1 + np.exp(2 * u)),
}
"""Values by log10 of the size; the sizes measured go from -1 to 1."""


def rates(truth: str, n: int, sd: float, replications: int, seed: int) -> list[dict[str, str]]:
    """One row per distance and rule: share of data sets in which it is trusted, and of those in which it misses."""
    value, rng = TRUTHS[truth], np.random.default_rng(seed)
    x = np.geomspace(SMALLEST, LARGEST, n)
    at = LARGEST * 10 ** np.array(DECADES)
    trusted, missed = [], []
    for _ in range(replications):
        comparison = compare_laws(points(x, value(np.log10(x)) + rng.normal(0, sd, n)))
        new = value(np.log10(at)) + rng.normal(0, sd, len(at))
        low, high = comparison.envelope(at)
        trusted.append(at <= comparison.horizon.high * (1 + 1e-9))
        missed.append((new < low) | (new > high))
    rows = []
    for j, decades in enumerate(DECADES):
        for rule, heard in (
            ("horizon", np.array(trusted)[:, j]),
            (f"before: {HORIZON} decade", np.full(len(missed), True)),
        ):
            misses = np.array(missed)[heard, j]
            share = f"{misses.mean():.3f}" if len(misses) else ""
            cells = {"truth": truth, "n": str(n), "sd": f"{sd:g}", "decades": f"{decades:g}", "rule": rule}
            rows.append(cells | {"trusted": f"{heard.mean():.3f}", "missed of trusted": share,
                                 "missed of all": f"{misses.sum() / len(missed):.3f}"})  # fmt: skip
    return rows


def main() -> None:
    """Writes broken.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/coverage"))
    parser.add_argument("--replications", type=int, default=100)
    given = parser.parse_args()
    rows = [
        row
        for truth in TRUTHS
        for n, sd in ((8, 0.02), (12, 0.01))
        for row in rates(truth, n, sd, given.replications, 1)
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "broken.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{given.out / 'broken.csv'}: {len(rows)} rows")


if __name__ == "__main__":
    main()

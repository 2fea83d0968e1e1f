"""What a rehearsal foretells of trials against what they take (target: within 15%).

    python tests/benchmarks/benchmark_rehearsal.py         # about a quarter of an hour on 2 cores

Each trial is foretold by `drorae train --dry-run --rehearse`, then trained by `drorae train --no-track`, both from an
empty cache beside converted weights. Its time is that of the whole command; its memory the largest that the process
had of its own at once, looked at from outside.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from alternate import COMMAND, RESULTS, machine

from drorae.trial.rehearsal import LOOK_SECONDS, own_bytes

BESIDE = {
    "generator.epochs": 10,
    "generator.samples": 512,
    "generator.precision": "bf16",
    "probe.steps": 200,
    "probe.train_images": 1024,
}
TRIALS: dict[str, dict[str, object]] = {
    **{f"h = {hidden}": {"capacity": hidden} for hidden in (8, 64, 512)},
    "h = 64, a generator and a probe": {"capacity": 64} | BESIDE,
}
"""Settings by name, on the quickstart's networks."""
MOST_OFF = 0.15


class Told(NamedTuple):
    """Seconds and bytes of a trial."""

    seconds: float
    memory: float


def words(options: argparse.Namespace, own: dict[str, object], cache: Path) -> list[str]:
    """The trial, as both commands are told it."""
    given = {"images.train_images": options.images, "images.val_images": options.images // 2}
    given |= {"phase1.epochs": options.epochs, "phase2.epochs": options.epochs}
    settings = [f"{name}={value}" for name, value in {**given, **own}.items()]
    return [
        *COMMAND,
        "train",
        "--preset",
        "quickstart",
        "--device",
        "cpu",
        "--cache-dir",
        str(cache),
        "--set",
        *settings,
    ]


def foretold(command: list[str]) -> Told:
    """What the dry run says."""
    done = subprocess.run([*command, "--dry-run", "--rehearse", "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["rehearsal"]
    return Told(3600 * found["hours"], found["memory_bytes"])


def measured(command: list[str], folder: Path) -> Told:
    """What the trial takes."""
    began, memory = time.perf_counter(), 0
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-track", "--out", str(folder / "trial")], stdout=log, stderr=log)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory = max(memory, own_bytes(watched))
            except psutil.Error:
                break
            time.sleep(LOOK_SECONDS)
    if process.wait():
        raise SystemExit((folder / "log").read_text())
    return Told(time.perf_counter() - began, memory)


def main() -> int:
    """Compares, records, and says whether all are within the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="for training, half as many for validation")
    parser.add_argument("--epochs", type=int, default=10, help="of each of the two phases")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows, off = [], list[float]()
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "weights"
        for number, (trial, own) in enumerate(TRIALS.items()):
            folder = Path(name) / str(number)
            cache = folder / "cache"
            cache.mkdir(parents=True)
            weights.mkdir(exist_ok=True)
            os.symlink(weights, cache / "weights")
            command = words(options, own, cache)
            if not any(weights.iterdir()):
                # The first one converts them, and all others find them.
                foretold(command)
            told, took = foretold(command), measured(command, folder)
            ratios = [one / other for one, other in zip(told, took, strict=True)]
            off += [abs(ratio - 1) for ratio in ratios]
            numbers = (told.seconds, took.seconds, ratios[0], told.memory / 1e9, took.memory / 1e9, ratios[1])
            rows.append((trial, numbers))
            print(trial, *(f"{value:.4g}" for value in numbers), flush=True)
    header = ("trial", "seconds foretold", "taken", "ratio", "GB foretold", "taken", "ratio")
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    lines += [f"| {trial} | {' | '.join(f'{value:.3g}' for value in numbers)} |" for trial, numbers in rows]
    verdict = (
        f"Largest difference {max(off):.0%}{'' if max(off) <= MOST_OFF else f' (MISSED: at most {MOST_OFF:.0%})'}."
    )
    how = f"{options.images} training images, {options.epochs} epochs of each phase, quickstart's networks."
    text = "\n".join([*lines, "", f"{verdict} {how} {machine()}."])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "rehearsal.md").write_text(f"{text}\n")
    with (options.out / "rehearsal.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "seconds_foretold", "seconds", "seconds_ratio", "gb_foretold", "gb", "gb_ratio"])
        writer.writerows([trial, *(f"{value:.6g}" for value in numbers)] for trial, numbers in rows)
    return 0 if max(off) <= MOST_OFF else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""A soak: one trial of an hour trained twice at the same time, once undisturbed and once killed with -9 five times.

    python tests/drill/soak.py --out results/soak          # an hour on 2 cores

Its images are JPEGs, encoded in every step from crops that two processes cut; every 200 steps of the three phases it is
measured. The moments of the kills are drawn from the seed, one in each of as many equal parts of the hour. The soak
passes if both have the same weights and metrics to the last bit, and if in no phase the memory of the undisturbed one
moves by more than 2% (unique memory of the process and its children, every two seconds; medians of the second and the
last quarter of the phase: in the first it starts its processes and fills its pools).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from alternate import machine
from benchmark_loading import write_photographs
from local_cluster import ROOT, kill_tree

MOST_GROWTH = 0.02
BETWEEN = 2.0
"""Seconds between two looks at the memory."""
PHASE = re.compile(r"(phase\d) step")
WEIGHTS = ("fusion.safetensors", "decoder.safetensors")


def settings(images: Path, epochs: list[int]) -> list[str]:
    """The trial: the smoke preset's networks on a folder of images, all three phases."""
    given = {"images.source": "folder", "images.path": images, "images.views": 0}
    given |= {"images.train_images": 0, "images.val_images": 0, "evaluation.extractors": "effnet2"}
    given |= {f"phase{number}.epochs": count for number, count in enumerate(epochs, 1)}
    given |= {"phase3.batch_size": 32}
    return [f"{name}={value}" for name, value in given.items()]


@dataclass
class Run:
    """One of the two, each with a folder and a cache of its own."""

    folder: Path
    settings: list[str]
    every: int
    memory: dict[str, list[float]] = field(default_factory=dict)
    """MB at each look, by the phase that it was in."""
    kills: list[str] = field(default_factory=list)
    """Where each of them struck."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it printed, all attempts together."""
        return self.folder / "log.txt"

    def start(self) -> None:
        """Starts it, or goes on with it."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "drorae", "train", "--preset", "smoke", "--no-track"]
        command += ["--out", str(self.folder / "trial"), "--cache-dir", str(self.folder / "cache")]
        # Sums over threads differ in their last digits.
        command += ["--features", "online", "--loader-workers", "2", "--threads", "1", "--device", "cpu"]
        command += ["--evaluate-every", str(self.every), "--evaluate-images", "64", "--set", *self.settings]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def running(self) -> bool:
        """Whether it still runs; raises where it ended by itself with an error."""
        assert self.process is not None
        if (code := self.process.poll()) is None:
            return True
        if code:
            raise SystemExit(f"error: {self.folder.name} ended with {code}: {self.log.read_text()[-2000:]}")
        return False

    def strike(self) -> None:
        """kill -9 of the process alone: those it has started have to see for themselves that it is gone."""
        assert self.process is not None
        self.kills.append(self.where())
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def where(self) -> str:
        """The last thing that it said of its steps."""
        said = [line for line in self.log.read_text().splitlines() if PHASE.search(line)]
        return re.sub(r"^training: |, .*", "", said[-1]) if said else "before the first step"

    def look(self) -> None:
        """Notes its memory."""
        found = PHASE.search(self.where())
        assert self.process is not None
        try:
            main = psutil.Process(self.process.pid)
            all_ = [main, *main.children(recursive=True)]
            used = sum(process.memory_full_info().uss for process in all_) / 2**20
        except psutil.Error:
            return
        self.memory.setdefault(found[1] if found else "start", []).append(used)

    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights, and of the metrics without what tells of the machine's speed."""
        trial = self.folder / "trial"
        found = {name: hashlib.sha256((trial / name).read_bytes()).hexdigest() for name in WEIGHTS}
        metrics = json.loads((trial / "result.json").read_text())["metrics"]
        lasting = {name: value for name, value in metrics.items() if "second" not in name}
        return found | {"metrics": hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()}


def growth(looks: list[float]) -> float:
    """By what share the memory of a phase has moved, from its second quarter to its last."""
    quarter = len(looks) // 4
    return statistics.median(looks[-quarter:]) / statistics.median(looks[quarter : 2 * quarter]) - 1


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains both; what was found."""
    write_photographs(folder / "images", options.images, 120, 96)
    given = settings(folder / "images", options.epochs)
    quiet, struck = (Run(folder / name, given, options.every) for name in ("undisturbed", "killed"))
    dice, part = random.Random(options.seed), 60 * options.minutes / options.kills
    moments = [part * (number + dice.uniform(0.1, 0.9)) for number in range(options.kills)]
    began = time.monotonic()
    try:
        quiet.start()
        struck.start()
        while any([quiet.running(), struck.running()]):
            if moments and time.monotonic() - began >= moments[0] and struck.running():
                moments.pop(0)
                struck.strike()
                print(f"{time.monotonic() - began:6.0f} s: killed at {struck.kills[-1]}", flush=True)
                struck.start()
            quiet.look()
            time.sleep(BETWEEN)
    finally:
        for run in (quiet, struck):
            if run.process is not None and run.process.poll() is None:
                kill_tree(run.process)
    moved = {phase: growth(looks) for phase, looks in quiet.memory.items() if phase != "start" and len(looks) >= 8}
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "same": quiet.digests() == struck.digests(),
        "weights": quiet.digests()[WEIGHTS[0]],
        "kills": struck.kills,
        "memory_mb": {phase: round(statistics.median(quiet.memory[phase])) for phase in moved},
        "growth": {phase: round(share, 4) for phase, share in moved.items()},
        "epochs": options.epochs,
        "seed": options.seed,
        "machine": machine(),
    }


def main() -> int:
    """Soaks, records what was found, and says whether it passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="within which the kills come")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs=3, default=[54, 200, 40], help="of each phase")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--every", type=int, default=200, help="steps between two measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for soak.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(options, Path(folder))
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    passes = found["same"] and len(found["kills"]) == options.kills
    passes &= all(abs(share) <= MOST_GROWTH for share in found["growth"].values())
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())

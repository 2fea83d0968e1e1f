"""What a sweep costs around its trials: seconds per trial and memory, for trials that only sleep, against a bare Tuner.

    python tests/benchmarks/benchmark_orchestration.py 50 200 1000 --out results/orchestration

Every number of trials is run by `run_sweep`, tracked in SQLite, and by a `tune.Tuner` that does nothing else, each in a
process of its own with the same Ray session, trials at once and reused workers. Memory is the driver process's (Ray's
own processes apart), read from outside, and the largest worker's.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import psutil
import sleeping_trial

from drorae.machine.telemetry import set_telemetry_defaults

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 4
QUARTERS = (0.25, 0.5, 0.75, 1.0)
KINDS = ("tuner", "drorae")


def run_tuner(count: int, folder: Path) -> dict[str, Any]:
    """The trials on a `tune.Tuner`, with Ray's settings as a sweep has them."""
    from sweeps.driver.cluster import ray_session

    with ray_session(""):
        import ray
        from ray import tune

        cpus = ray.cluster_resources()["CPU"] / AT_ONCE

        def trainable(given: dict[str, Any]) -> None:
            sleeping_trial.sleep_and_sign(folder)

        tune.Tuner(
            tune.with_resources(trainable, {"CPU": cpus}),
            param_space={"seed": tune.grid_search(list(range(count)))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=AT_ONCE),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder / "ray"), verbose=0),
        ).fit()
    return {}


def run_drorae(count: int, folder: Path) -> dict[str, Any]:
    """The trials as a sweep, and the seconds that the driver spent in each part of the tracking."""
    from drorae.config import PRESETS, Runtime
    from sweeps.driver.run import run_sweep
    from sweeps.resources import Resources
    from sweeps.spec import Axis, SweepSpec
    from sweeps.tracking.sweep import SweepTracker

    spent: dict[str, float] = {}

    def timed(name: str) -> None:
        plain = getattr(SweepTracker, name)

        def method(*given: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return plain(*given, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.monotonic() - began

        setattr(SweepTracker, name, method)

    for name in ("__init__", "settle", "close"):
        timed(name)
    outcome = run_sweep(
        SweepSpec("sleep", PRESETS["smoke"], (Axis("seed", tuple(range(count))),)),
        root=folder,
        runtime=Runtime(device="cpu", cache_dir=str(folder)),
        resources=Resources(cpus=(os.cpu_count() or 1) / AT_ONCE, max_concurrent=AT_ONCE),
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        quiet=True,
        run_trial="sleeping_trial:run_trial",
        prepare="sleeping_trial:prepare",
    )
    if outcome.counts != {"finished": count}:
        raise RuntimeError(f"expected {count} finished trials, got {outcome.counts}")
    return {"opening_s": spent["__init__"], "settle_s": spent["settle"], "close_s": spent["close"]}


def largest_worker(driver: psutil.Process) -> float:
    """MB of the largest process of Ray's that runs trials."""
    sizes = [0]
    for process in driver.children(recursive=True):
        try:
            if process.name().startswith("ray::"):
                sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes) / 1e6


def measure(kind: str, count: int) -> dict[str, Any]:
    """Runs one kind as a process of its own and watches it: the row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ended = folder / sleeping_trial.ENDED
        command = [sys.executable, __file__, str(count), "--one", kind, "--in", name]
        paths = [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        began = time.monotonic()
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        watched = psutil.Process(driver.pid)
        reached: dict[float, float] = {}
        row: dict[str, Any] = {"kind": kind, "trials": count}
        peak = last = first = 0.0
        while driver.poll() is None:
            time.sleep(0.05)
            try:
                last = watched.memory_info().rss / 1e6 or last
                done = ended.stat().st_size if ended.exists() else 0
                now = time.monotonic() - began
                first = first or (now if done else 0.0)
                for share in QUARTERS:
                    if done >= share * count and share not in reached:
                        reached[share] = now
                        row[f"driver_mb_{share:.0%}"] = round(last)
                        row[f"worker_mb_{share:.0%}"] = round(largest_worker(watched))
            except psutil.NoSuchProcess:
                break
            peak = max(peak, last)
        said = driver.communicate()[0]
        total = time.monotonic() - began
        if driver.returncode:
            raise RuntimeError(f"{kind} with {count} trials failed")
    times = [first, *(reached[share] for share in QUARTERS)]
    row |= {
        "total_s": total,
        "total_s_per_trial": total / count,
        "until_first_s": first,
        # The first quarter holds the start of the workers.
        "s_per_trial": (times[4] - times[1]) / (0.75 * count),
        **{f"s_per_trial_q{number}": (times[number] - times[number - 1]) / (count / 4) for number in (2, 3, 4)},
        "after_last_s": total - times[4],
        "driver_mb_peak": round(peak),
        "driver_mb_end": round(last),
    }
    row |= json.loads(said.splitlines()[-1])
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


SHOWN = {
    "trials": "trials",
    "": "kind",
    "s per trial": "s_per_trial",
    "all seconds": "total_s",
    "until the first ends": "until_first_s",
    "after the last": "after_last_s",
    "driver MB at 25 %": "driver_mb_25%",
    "50 %": "driver_mb_50%",
    "75 %": "driver_mb_75%",
    "100 %": "driver_mb_100%",
    "peak": "driver_mb_peak",
    "worker MB at 100 %": "worker_mb_100%",
}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The main columns as a table for a README."""
    lines = ["| " + " | ".join(SHOWN) + " |", "|--:|---|" + "--:|" * (len(SHOWN) - 2)]
    for row in rows:
        cells = [f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in SHOWN.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """The rows as a CSV."""
    out.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (out / "orchestration.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Runs the comparison, prints its rows and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="*", default=[50, 200, 1000])
    parser.add_argument("--out", type=Path, help="folder for orchestration.csv")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        said = (run_tuner if options.one == "tuner" else run_drorae)(options.trials[0], options.folder)
        print(json.dumps(said), flush=True)
        return
    rows = []
    for count in options.trials:
        for kind in options.kinds:
            rows.append(measure(kind, count))
            print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
            if options.out is not None:
                write(rows, options.out)
    print(markdown(rows))


if __name__ == "__main__":
    set_telemetry_defaults()
    main()

"""What tracking takes of a trial's training: a real trial of the smoke preset's kind, as a worker runs it.

    python tests/benchmarks/benchmark_tracking.py --out results/orchestration

One trial after the other on one thread: untracked, tracked in SQLite, by `mlflow server` on this machine, and by a
server that accepts connections and never answers. Seconds are those that the training waits in its calls of tracking;
beside them the processor seconds of the thread that sends, which run elsewhere where there is a core to spare. Python's
garbage collections, a few in a process's life and each as long as its heap is large, are counted apart where one falls
into that thread.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from drorae.config import PRESETS, Runtime, TrialConfig, config_hash, override
from drorae.machine.telemetry import set_telemetry_defaults
from drorae.trial.run import prepare, run_trial
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import RunAddress
from sweeps.resources import Share
from sweeps.tracking.recorder import Recorder
from sweeps.tracking.sweep import SweepTracker
from sweeps.tracking.trial import TrialTracker
from sweeps.worker.heartbeat import heartbeat

STEPS_PER_EPOCH = 3
STORES = ("none", "sqlite", "server", "silent")


class Timed(TrialTracker):
    """A tracker that counts the processor seconds of its reports, and those of collections among them."""

    sent_s = collected_s = start_s = 0.0
    _collecting = 0.0

    def report(self, row: Any) -> None:
        """As it is."""
        own = threading.get_ident()

        def collects(stage: str, what: dict[str, int]) -> None:
            if threading.get_ident() != own:
                return
            if stage == "start":
                self._collecting = time.thread_time()
            elif what["generation"] == 2:
                self.collected_s += time.thread_time() - self._collecting

        before = self.collected_s
        gc.callbacks.append(collects)
        began = time.thread_time()
        super().report(row)
        self.sent_s += time.thread_time() - began - (self.collected_s - before)
        gc.callbacks.remove(collects)

    def start(self) -> bool:
        """As it is."""
        began = time.perf_counter()
        done = super().start()
        self.start_s = time.perf_counter() - began
        return done


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """The address of a store of this kind; empty for none."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
    elif kind == "server":
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        # Its job runners keep a core busy for what nobody here asks for.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "server.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()
    elif kind == "silent":
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(128)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    else:
        yield ""


def measure(kind: str, config: TrialConfig, runtime: Runtime, folder: Path) -> dict[str, Any]:
    """One trial: the row of the table."""
    directory = folder / config_hash(config)
    directory.mkdir()
    waited = steps = 0.0
    with store(kind, folder) as uri:
        address = RunAddress(uri, "1", "parent")
        if kind in ("sqlite", "server"):
            address = SweepTracker("benchmark", "id", folder, uri).open_parent("a benchmark")
        tracker = Timed(address, config, directory) if uri else None
        with heartbeat(directory, Share(), Lease(directory / "worker.lease")) as heart, contextlib.ExitStack() as stack:
            began = time.perf_counter()
            recorder = stack.enter_context(Recorder(tracker)) if tracker else None
            starting = time.perf_counter() - began

            def report(row: dict[str, float | str]) -> None:
                nonlocal waited, steps
                began = time.perf_counter()
                if recorder is not None:
                    heart.report(row)
                    recorder.report(row)
                waited += time.perf_counter() - began
                steps = float(row["step"]) if row.get("phase") == "phase2" else steps

            result = run_trial(config, report, directory=directory, runtime=runtime)
            began = time.perf_counter()
            if recorder is not None:
                stack.close()
            finishing = time.perf_counter() - began
    sent, collected = (tracker.sent_s, tracker.collected_s) if tracker else (0.0, 0.0)
    return {
        "store": kind,
        "steps": int(steps),
        "ms_per_step": round(1000 * result.train_seconds / steps, 2),
        "waited_us_per_step": round(1e6 * waited / steps, 2),
        "waited_percent": round(100 * waited / result.train_seconds, 4),
        "sender_cpu_us_per_step": round(1e6 * sent / steps, 1),
        "sender_cpu_percent": round(100 * sent / result.train_seconds, 3),
        "collections_s": round(collected, 2),
        "start_wait_s": round(starting, 4),
        "start_s": round(tracker.start_s, 2) if tracker else 0.0,
        "finish_wait_s": round(finishing, 2),
    }


def main() -> None:
    """Runs the trials, prints their rows and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--log-steps", type=int, default=10, help="a row every so many steps")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    parser.add_argument("--out", type=Path, help="folder for tracking.csv")
    options = parser.parse_args()
    config = override(PRESETS["smoke"], "phase2.epochs", options.steps // STEPS_PER_EPOCH)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtime = Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"), log_steps=options.log_steps)
        prepare(config, runtime)
        for seed, kind in enumerate(options.stores):
            rows.append(measure(kind, replace(config, seed=seed), runtime, folder))
            print(" ".join(f"{column}={value}" for column, value in rows[-1].items()), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "tracking.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    set_telemetry_defaults()
    main()

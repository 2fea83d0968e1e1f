"""A fault drill: sweeps on a two-node cluster while workers, nodes, drivers and the tracking server are killed, drivers
are stopped and ended by signals, a node's memory is full, a result is damaged, runs are moved, the code is exchanged.

    python tests/drill/drill.py --seeds 5 --out results/drill

What is killed when is drawn from the seed. A seed is clean when, at the end, every trial has one finished run, none is
RUNNING, no step is recorded twice and none is missing, and every metric equals that of an undisturbed sweep to the
bit. The disk that trials, checkpoints and spools lie on is a small tmpfs, filled once to its last byte, for which the
drill needs to be root.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from local_cluster import ROOT, LocalCluster, free_ports, kill_tree

from sweeps.folder.lease import EXPIRE_SECONDS
from sweeps.folder.sweep import DRIVER_LEASE

CLI = (sys.executable, "-m", "drorae")
NAME = "drill"
DISK_BYTES = 300 * 2**20
KINDS = ("worker", "node", "driver", "tracking", "disk", "term", "hup", "interrupt", "stop", "memory", "damage", "move",
         "upgrade")  # fmt: skip
"""What is struck: fields of `Faults`."""
ORDER_SECONDS = 90
"""A driver that takes longer to end in order hangs."""
HANG_SECONDS = 1500
"""A seed that takes longer hangs."""


@dataclass(frozen=True)
class Faults:
    """How often each is done to one sweep."""

    worker: int = 4
    node: int = 2
    driver: int = 2
    tracking: int = 2
    disk: int = 1
    term: int = 1
    hup: int = 1
    interrupt: int = 1
    """Two interrupts of the driver, one upon the other."""
    stop: int = 1
    """The driver is stopped for longer than its lease holds, and goes on beside its successor."""
    memory: int = 1
    """A node whose memory monitor finds it full."""
    damage: int = 1
    """A result that is cut to nothing."""
    move: int = 1
    """The runs are moved elsewhere."""
    upgrade: int = 1
    """The code is exchanged for one whose configs have a field more."""
    away_seconds: float = 60.0
    """Longest absence of the tracking server."""


@dataclass(frozen=True)
class Scale:
    """How large the sweep is."""

    capacities: tuple[int, ...] = (4, 8, 16, 32)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    epochs: int = 24

    @property
    def trials(self) -> int:
        """Trials of the sweep."""
        return len(self.capacities) * len(self.seeds)

    def command(self, root: Path, cache: Path) -> list[str]:
        """The sweep, of real trials that save a checkpoint every second. Bit-identical results need the same number of
        threads, and the preparation's would be those of the largest node."""
        axes = [f"capacity={','.join(map(str, self.capacities))}", f"seed={','.join(map(str, self.seeds))}"]
        return [*CLI, "sweep", "--preset", "smoke", "--no-check-convergence",
                "--set", f"phase2.epochs={self.epochs}", "--axis", *axes, "--name",
                NAME, "--root", str(root), "--cache-dir", str(cache), "--device", "cpu", "--threads", "1",
                "--checkpoint-seconds", "1", "--no-fit", "--debug"]  # fmt: skip


@dataclass
class Outcome:
    """One seed."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    """Faults that struck."""
    seconds: float = 0.0
    gave_up: int = 0
    """Drivers that ended by themselves before the sweep was done."""
    problems: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For the table."""
        struck = {f"{name}_faults": self.done[name] for name in KINDS}
        return {"seed": self.seed, **struck, "drivers_gave_up": self.gave_up, "seconds": round(self.seconds),
                "clean": not self.problems, "problems": "; ".join(self.problems)}  # fmt: skip


class TrackingServer:
    """`mlflow server` on SQLite, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, without waiting for it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        # Its job runners, eight processes that only wait, would take most of a core.
        own = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Waits until it answers."""
        import urllib.request

        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def kill(self) -> None:
        """kill -9, with its workers."""
        if self._process is not None:
            kill_tree(self._process)
            self._process = None


class SmallDisk:
    """A tmpfs that can be filled; a plain folder where nobody may mount one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
        self.mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Takes all the room there is."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Gives it back."""
        (self.path / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


class Drill:
    """One seed's sweep, and what is done to it."""

    def __init__(self, seed: int, faults: Faults, scale: Scale, folder: Path, cache: Path) -> None:
        self.dice = random.Random(seed)
        self.scale, self.faults, self.folder, self.cache = scale, faults, folder, cache
        self.outcome = Outcome(seed)
        self.disk = SmallDisk(folder / "runs")
        self.root = self.disk.path / "runs"
        self.root.mkdir()
        self.source = ROOT
        """The code that is run."""
        self.stopped: subprocess.Popen[bytes] | None = None
        """A driver that was stopped."""
        self.cluster = LocalCluster(folder)
        self.server = TrackingServer(folder)
        self.driver: subprocess.Popen[bytes] | None = None
        self.over = False
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._began = time.monotonic()

    def run(self) -> Outcome:
        """Runs the sweep to its end."""
        try:
            self._start()
            for at, delay, kind in self._moments():
                self._wait(lambda at=at: self.finished() >= at)
                until = time.monotonic() + delay
                self._wait(lambda until=until: time.monotonic() >= until)
                while not self.over and not self._strike(kind):
                    self._tick()
            self._wait(lambda: False)
            for then in [then for _, then in self._later]:
                then()
            self._later.clear()
        except TimeoutError as error:
            self.outcome.problems.append(str(error))
        finally:
            for process in (self.driver, self.stopped):
                if process is not None and process.poll() is None:
                    kill_tree(process)
            self.cluster.__exit__(None, None, None)
            self.outcome.seconds = time.monotonic() - self._began
        return self.outcome

    def close(self) -> None:
        """Ends what is left."""
        self.server.kill()
        self.disk.close()

    def finished(self) -> int:
        """Trials that have a result."""
        return len(list((self.root / NAME / "trials").glob("*/result.json")))

    def say(self, text: str) -> None:
        """An event, with the seconds since the start."""
        with (self.folder / "drill.log").open("a") as log:
            log.write(f"{time.monotonic() - self._began:6.1f} s, {self.finished()} done: {text}\n")

    def _moments(self) -> list[tuple[int, float, str]]:
        """(trials done, seconds after that, what happens)."""
        kinds = [
            kind for kind in KINDS for _ in range(getattr(self.faults, kind)) if kind != "disk" or self.disk.mounted
        ]
        # The last trials are left alone, so that no fault comes too late.
        latest = self.scale.trials - (3 if len(kinds) < 8 else 6)
        drawn = [(self.dice.randint(0, latest), self.dice.uniform(0, 4), kind) for kind in kinds]
        return sorted(drawn)

    def _start(self) -> None:
        self.server.start()
        self.cluster.start(1)
        self.cluster.start(1)
        self.server.wait()
        self._drive()

    def _drive(self) -> None:
        resume = (self.root / NAME / "sweep.json").exists() and self.dice.random() < 0.5
        again = [*CLI, "resume", NAME, "--root", str(self.root), "--no-fit"]
        command = again if resume else self.scale.command(self.root, self.cache)
        environment = self.cluster.environment | {"MLFLOW_TRACKING_URI": self.server.uri}
        with (self.folder / "driver.log").open("ab") as log:
            log.write(f"\n$ {' '.join(command[2:])}\n".encode())
            log.flush()
            self.driver = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.source
            )
        self.say("driver started" + (" (resume)" if resume else ""))

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, then))

    def _wait(self, reached: Callable[[], bool]) -> None:
        while not reached() and not self.over:
            self._tick()

    def _tick(self) -> None:
        """Does what is due, and restarts a driver that ended before its time."""
        if time.monotonic() - self._began > HANG_SECONDS:
            raise TimeoutError(f"hangs: {self.finished()} of {self.scale.trials} done after {HANG_SECONDS} s")
        now = time.monotonic()
        due = [item for item in self._later if item[0] <= now]
        self._later = [item for item in self._later if item[0] > now]
        for _, then in due:
            then()
        if self.driver is not None and self.driver.poll() is not None:
            code, self.driver = self.driver.returncode, None
            if code == 0:
                self.over = True
            else:
                self.outcome.gave_up += 1
                self.say(f"driver ended by itself with {code}")
                if self.outcome.gave_up > 10:
                    raise TimeoutError("the driver gives up again and again")
                self._after(2, self._drive)
        time.sleep(0.1)

    def _strike(self, kind: str) -> bool:
        """Does it; False where there is nothing to strike yet."""
        struck = bool(getattr(self, f"_strike_{kind}")())
        self.outcome.done[kind] += struck
        return struck

    def _strike_worker(self) -> bool:
        pids = []
        for path in (self.root / NAME / "trials").glob("*/worker.lease"):
            try:
                pid = json.loads(path.read_text())["pid"]
            except (OSError, ValueError, KeyError):
                continue
            if psutil.pid_exists(pid):
                pids.append(pid)
        if not pids:
            return False
        pid = self.dice.choice(sorted(pids))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.say(f"worker {pid} killed")
        return True

    def _strike_node(self) -> bool:
        # The head holds the cluster itself: without it there is none to be resumed on.
        if len(self.cluster.nodes) < 2:
            return False
        self.cluster.kill(self.cluster.nodes[-1])
        self.say("node killed")
        self._after(self.dice.uniform(0, 10), self._add_node)
        return True

    def _add_node(self) -> None:
        self.cluster.start(1)
        self.say("node joined")

    def _strike_driver(self) -> bool:
        if self.driver is None:
            return False
        kill_tree(self.driver)
        self.driver = None
        self.say("driver killed")
        self._after(self.dice.uniform(0, 5), self._drive)
        return True

    def _strike_term(self) -> bool:
        return self._end_driver(signal.SIGTERM)

    def _strike_hup(self) -> bool:
        return self._end_driver(signal.SIGHUP)

    def _strike_interrupt(self) -> bool:
        return self._end_driver(signal.SIGINT, signal.SIGINT)

    def _end_driver(self, *signals: signal.Signals) -> bool:
        """Sends the driver signals, half a second apart, waits for its end and starts another."""
        if not self._stop_in_order(*signals):
            return False
        self._after(self.dice.uniform(0, 5), self._drive)
        return True

    def _stop_in_order(self, *signals: signal.Signals) -> bool:
        driver = self.driver
        # One that has not begun to work has no order to end in.
        if driver is None or not self._is_led_by(driver.pid):
            return False
        for number in signals:
            driver.send_signal(number)
            time.sleep(0.5)
        names = " and ".join(number.name for number in signals)
        try:
            code = driver.wait(ORDER_SECONDS)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the driver does not end after {names}") from None
        self.driver = None
        self.say(f"driver got {names} and ended with {code}")
        # With --debug an interrupt is let out, and Python ends itself by it, which a shell calls 130, too.
        if code not in (0, 128 + signals[0], -signal.SIGINT if signal.SIGINT in signals else 0):
            self.outcome.problems.append(f"{names} ended the driver with {code}")
        return True

    def _is_led_by(self, pid: int) -> bool:
        """Whether the sweep's lease is a process's."""
        try:
            return bool(json.loads((self.root / NAME / DRIVER_LEASE).read_text())["pid"] == pid)
        except (OSError, ValueError, KeyError):
            return False

    def _strike_stop(self) -> bool:
        if self.driver is None or not self._is_led_by(self.driver.pid):
            return False
        self.stopped, self.driver = self.driver, None
        self.stopped.send_signal(signal.SIGSTOP)
        self.say(f"driver {self.stopped.pid} stopped")
        self._after(self.dice.uniform(0, 5), self._drive)
        self._after(EXPIRE_SECONDS + self.dice.uniform(15, 40), self._continue)
        return True

    def _continue(self) -> None:
        stopped, self.stopped = self.stopped, None
        assert stopped is not None
        stopped.send_signal(signal.SIGCONT)
        self.say(f"driver {stopped.pid} continued")
        try:
            code = stopped.wait(ORDER_SECONDS)
        except subprocess.TimeoutExpired:
            kill_tree(stopped)
            self.outcome.problems.append("a driver that was stopped and taken over goes on")
            return
        self.say(f"driver {stopped.pid} ended with {code}")
        if code == 0 and not self.over:
            self.outcome.problems.append("a driver that was taken over ends as if the sweep were done")

    def _strike_memory(self) -> bool:
        if len(self.cluster.nodes) < 2:
            return False
        self.cluster.kill(self.cluster.nodes[-1])
        # Any use of memory is too much for it.
        full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
        node = self.cluster.start(1, extra=full)
        self.say("a node with full memory joined")

        def leave() -> None:
            if node in self.cluster.nodes:
                self.cluster.kill(node)
                self.say("the node with full memory left")
                self._after(self.dice.uniform(0, 5), self._add_node)

        self._after(self.dice.uniform(10, 20), leave)
        return True

    def _strike_damage(self) -> bool:
        done = sorted((self.root / NAME / "trials").glob("*/result.json"))
        if not done:
            return False
        path = self.dice.choice(done)
        path.write_bytes(b"")
        self.say(f"{path.parent.name}: result emptied")
        return True

    def _strike_move(self) -> bool:
        if not self._stop_in_order(signal.SIGTERM):
            return False
        elsewhere = self.disk.path / "elsewhere"
        self.root.rename(elsewhere)
        self.root = elsewhere
        self.say("runs moved")
        self._drive()
        return True

    def _strike_upgrade(self) -> bool:
        if self._later or not self._stop_in_order(signal.SIGTERM):
            return False
        newer = self.folder / "newer"
        for package in ("drorae", "sweeps", "analysis"):
            shutil.copytree(ROOT / package, newer / package, ignore=shutil.ignore_patterns("__pycache__"))
        schema = newer / "drorae" / "config" / "schema.py"
        text = schema.read_text()
        field = "    clip_norm: Weight = 1.0\n"
        assert field in text
        schema.write_text(text.replace(field, f"{field}    younger: Count = 0\n"))
        self.source = newer
        self.cluster.own["PYTHONPATH"] = os.pathsep.join([str(newer), str(ROOT / "tests" / "support")])
        for node in list(reversed(self.cluster.nodes)):
            self.cluster.kill(node)
        self.cluster.start(1)
        self.cluster.start(1)
        self.say("upgraded")
        self._drive()
        return True

    def _strike_tracking(self) -> bool:
        if any(then == self._back for _, then in self._later):
            return False
        self.server.kill()
        self.say("tracking server killed")
        self._after(self.dice.uniform(0, self.faults.away_seconds), self._back)
        return True

    def _back(self) -> None:
        self.server.start()
        self.say("tracking server started")

    def _strike_disk(self) -> bool:
        self.disk.fill()
        self.say("disk filled")
        self._after(self.dice.uniform(3, 15), self._make_room)
        return True

    def _make_room(self) -> None:
        self.disk.empty()
        self.say("disk has room")


def results(root: Path) -> dict[str, dict[str, Any]]:
    """result.json of every trial of the drill's sweep."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in (root / NAME / "trials").glob("*/result.json")
    }  # fmt: skip


def find_problems(drill: Drill, reference: dict[str, dict[str, float]]) -> list[str]:
    """What is wrong with a sweep's results and records; empty for a clean one."""
    from mlflow.tracking import MlflowClient

    problems: list[str] = []
    found = results(drill.root)
    if set(found) != set(reference):
        problems.append(f"{len(found)} of {len(reference)} trials have a result")
    for key, result in found.items():
        if result["metrics"] != reference.get(key):
            problems.append(f"{key}: metrics differ from the undisturbed sweep's")
    drill.server.wait()
    client = MlflowClient(drill.server.uri)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        return [*problems, "no experiment in MLflow"]
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    states = Counter(run.info.status for run in runs)
    children = [run for run in runs if run.data.tags.get("drorae.kind") == "trial"]
    if states != Counter(FINISHED=len(reference) + 1) or len(children) != len(reference):
        problems.append(f"runs in MLflow: {dict(states)}, {len(children)} of trials")
    twice = [
        key for key, count in Counter(run.data.tags["drorae.config_hash"] for run in children).items() if count > 1
    ]
    problems += [f"{key}: several runs" for key in twice]
    for run in children:
        key = run.data.tags["drorae.config_hash"]
        logged = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        history = drill.root / NAME / "trials" / key / "history.jsonl"
        rows = [json.loads(line) for line in history.read_text().splitlines()] if history.is_file() else []
        trained = sorted(int(row["step"]) for row in rows if "loss" in row and row["phase"] == "phase2")
        if len(set(logged)) != len(logged):
            problems.append(f"{key}: steps recorded twice")
        if sorted(set(logged)) != trained:
            problems.append(f"{key}: {len(set(logged))} steps recorded, {len(trained)} trained")
        for name, value in found.get(key, {}).get("metrics", {}).items():
            if run.data.metrics.get(name) != value:
                problems.append(f"{key}: {name} in MLflow differs from the trial's")
            elif len(client.get_metric_history(run.info.run_id, name)) != 1:
                problems.append(f"{key}: {name} recorded more than once")
    problems += [f"left behind: {path.name}" for path in (drill.root / NAME).rglob("spool*")]
    return problems


def undisturbed(scale: Scale, folder: Path, cache: Path) -> dict[str, dict[str, float]]:
    """The metrics of the same sweep when nothing happens to it, by config hash; fills the cache, too."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "MLFLOW_"))}
    root = folder / "undisturbed"
    done = subprocess.run(scale.command(root, cache), env=own, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the undisturbed sweep failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {key: result["metrics"] for key, result in results(root).items()}


def run_seed(
    seed: int, faults: Faults, scale: Scale, cache: Path, reference: dict[str, dict[str, float]], keep: Path | None
) -> Outcome:
    """One seed; its logs go to `keep`."""
    # Sockets lie below it, and their paths are short.
    folder = Path(tempfile.mkdtemp(prefix="d"))
    drill = Drill(seed, faults, scale, folder, cache)
    try:
        outcome = drill.run()
        if not outcome.problems:
            outcome.problems += find_problems(drill, reference)
        meant = {name: getattr(faults, name) for name in KINDS}
        if not drill.disk.mounted:
            print("the disk is not filled: only root may mount one", flush=True)
            meant["disk"] = 0
        missed = {name: count - outcome.done[name] for name, count in meant.items() if outcome.done[name] != count}
        if missed:
            outcome.problems.append(f"the sweep ended before all faults struck ({missed} left)")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, keep / f"{seed}-{log.name}")
        return outcome
    finally:
        drill.close()
        shutil.rmtree(folder, ignore_errors=True)


def write_table(path: Path, outcomes: list[Outcome]) -> None:
    """One row a seed, as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [outcome.row() for outcome in outcomes]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Runs the seeds; 1 where one is not clean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--out", type=Path, default=Path("results/drill"), help="folder of drill.csv")
    parser.add_argument("--keep", type=Path, default=Path("runs/drill"), help="folder for the logs")
    given = parser.parse_args()
    os.chdir(ROOT)
    # A shell's background jobs ignore it, and so would the drivers that are to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scale = Scale()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        reference = undisturbed(scale, Path(folder), cache)
        for seed in range(given.first, given.first + given.seeds):
            own = cache
            if seed % 5 == 4:
                # Faults meet the preparation, too.
                own = Path(folder) / f"cold{seed}"
            outcomes.append(run_seed(seed, Faults(), scale, own, reference, given.keep))
            print(json.dumps(outcomes[-1].row()), flush=True)
            write_table(given.out / "drill.csv", outcomes)
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

"""A two-node Ray cluster whose machines share no disk: sweep and cache at S3 URLs, a node lost on the way.

    python tests/checks/apart_check.py

Each node and the driver keep their copies in folders of their own. Prints what happened and how long it took; exits 1
where a trial is missing or its metrics are not those of one machine. Not part of `make test`: it takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from local_cluster import LocalCluster
from store_server import BUCKET, serving

from drorae.storage.remote import Remote

# Bit-identical results need the same number of threads.
TRIALS = ("--preset", "smoke", "--no-check-convergence", "--axis", "capacity=4,16", "seed=0,1,2", "--threads", "1")
ROOT = f"{BUCKET}/runs"


def sweep(root: str, cache: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a sweep of six trials."""
    command = [sys.executable, "-m", "drorae", "sweep", *TRIALS, "--name", "apart", "--root", root]
    with log.open("wb") as file:
        own = environment | {"DRORAE_CACHE": cache}
        return subprocess.Popen([*command, "--no-fit", "--json"], env=own, stdout=file, stderr=subprocess.STDOUT)


def results() -> dict[str, Any]:
    """The metrics of every trial that is done, by config hash."""
    trials = Remote(f"{ROOT}/apart/trials")
    names = [name for name in trials.files() if name.endswith("/result.json")]
    return {name.partition("/")[0]: json.loads((trials / name).read() or b"")["metrics"] for name in names}


def main() -> None:
    """Runs the check."""
    with tempfile.TemporaryDirectory(prefix="d") as name, serving() as store:
        folder = Path(name)
        os.environ.update(store)
        machines = [folder / f"machine{number}" for number in range(3)]
        with LocalCluster(folder) as cluster:
            nodes = []
            for machine in machines[:2]:
                cluster.own["DRORAE_LOCAL_CACHE"] = str(machine)
                nodes.append(cluster.start(cpus=1))
            began = time.monotonic()
            own = cluster.environment | {"DRORAE_LOCAL_CACHE": str(machines[2])}
            driver = sweep(ROOT, f"{BUCKET}/cache", own, folder / "driver.log")
            while len(results()) < 2:
                assert driver.poll() is None, (folder / "driver.log").read_text()
                time.sleep(0.5)
            cluster.kill(nodes[1])
            assert driver.wait(600) == 0, (folder / "driver.log").read_text()
            found = results()
            print(f"{len(found)} of 6 trials, one of two nodes killed after 2: {time.monotonic() - began:.0f} s")
            used = [sorted(path.name for path in machine.glob("*") if path.is_dir()) for machine in machines]
            print(f"kept by the nodes: {used[0]}, {used[1]}; by the driver: {used[2]}")
        alone = sweep(str(folder / "alone"), str(folder / "cache"), dict(os.environ), folder / "alone.log")
        assert alone.wait(600) == 0, (folder / "alone.log").read_text()
        paths = (folder / "alone" / "apart" / "trials").glob("*/result.json")
        same = {path.parent.name: json.loads(path.read_text())["metrics"] for path in paths}
        print(f"metrics bit-identical to those of one machine: {found == same}")
        assert len(found) == 6 and found == same and used[2] == ["mirrors"]


if __name__ == "__main__":
    main()

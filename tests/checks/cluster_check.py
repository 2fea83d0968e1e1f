"""A two-node Ray cluster on one machine, with token authentication: jobs killed and submitted again, mixed trials.

    python tests/checks/cluster_check.py [TRIALS]

Prints what happened and how long it took; exits 1 where a trial is missing or was trained twice. Not part of
`make test`: it takes minutes. Needs ray[default].
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from local_cluster import RAY, ROOT, two_nodes


def submit(environment: dict[str, str], root: Path, wait: bool) -> str:
    """Submits a smoke sweep of six trials as a job; its output where it is waited for."""
    address = environment["DASHBOARD"]
    own = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    command = [RAY, "job", "submit", "--address", address, *([] if wait else ["--no-wait"]), "--runtime-env-json",
               f'{{"env_vars": {{"PYTHONPATH": "{ROOT}"}}}}', "--", sys.executable, "-m", "drorae", "sweep",
               "--preset", "smoke", "--no-check-convergence",
               "--axis", "capacity=4,16", "seed=0,1,2", "--name", "job", "--root", str(root),
               "--no-fit"]  # fmt: skip
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def results(root: Path, name: str) -> dict[str, str]:
    """SHA-256 of every result there is, by config hash."""
    found = (root / name / "trials").glob("*/result.json")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def check_job(environment: dict[str, str], root: Path) -> None:
    """A job whose driver is killed after two of six trials, and submitted again."""
    began = time.monotonic()
    submit(environment, root, wait=False)
    while len(results(root, "job")) < 2:
        assert time.monotonic() - began < 300, "the first job does not get on"
        time.sleep(0.5)
    subprocess.run(["pkill", "-9", "-f", f"drorae sweep .*--root {root}"], check=True)
    before = results(root, "job")
    output = submit(environment, root, wait=True)
    after = results(root, "job")
    kept = sum(after.get(key) == value for key, value in before.items())
    print(f"job: killed after {len(before)} of 6, submitted again: {len(after)} results, {kept} of {len(before)} kept, "
          f"{'output streamed' if '[6/6]' in output else 'NO OUTPUT'}, {time.monotonic() - began:.0f} s")  # fmt: skip
    assert len(after) == 6 and kept == len(before) and "[6/6]" in output


MIXED = """
import sys
from pathlib import Path
from drorae.config import PRESETS, Runtime, override
from sweeps.resources import Resources, Rule
from sweeps.driver.run import run_sweep
from sweeps.spec import Axis, SweepSpec
root, count = Path(sys.argv[1]), int(sys.argv[2])
base = override(PRESETS["smoke"], "encoder.path", "sleep=0.1")
spec = SweepSpec("mixed", base, (Axis("seed", tuple(range(count))),))
pairs = Rule(Axis("seed", tuple(range(1, count, 2))), cpus=2, processes=2)
halves = Rule(Axis("seed", tuple(range(0, count, 4))), gpus=0.5)
outcome = run_sweep(spec, root=root, runtime=Runtime(device="cpu", cache_dir=str(root)),
                    resources=Resources(gpus=0, rules=(pairs, halves)), run_trial="fake_trial:run_trial",
                    prepare="fake_trial:prepare")
print(outcome.counts)
"""


def check_mixed(environment: dict[str, str], root: Path, count: int) -> None:
    """Trials of one process, of half a GPU and of two processes, in turn, on nodes that differ."""
    began = time.monotonic()
    with (root / "mixed.log").open("w") as log:
        command = [sys.executable, "-c", MIXED, str(root), str(count)]
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=3600)
    attempts = [len(path.read_text().splitlines()) for path in (root / "mixed" / "trials").glob("*/attempts.log")]
    found = len(results(root, "mixed"))
    print(f"mixed: {found} of {count} trials finished, {sum(attempts)} attempts, {time.monotonic() - began:.0f} s")
    assert done.returncode == 0 and found == count == sum(attempts), (root / "mixed.log").read_text()[-3000:]


def main() -> None:
    """Runs both checks."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory(prefix="d") as folder, two_nodes(Path(folder), (2, 0), (1, 1)) as environment:
        root = Path(folder) / "runs"
        root.mkdir()
        check_job(environment, root)
        check_mixed(environment, root, count)


if __name__ == "__main__":
    main()

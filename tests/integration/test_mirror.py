"""Sweeps and caches in an object store: leases, copies, and machines that share nothing but a URL."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import psutil
import pytest
from records import empty_records

from drorae.commands.main import main
from drorae.config import PRESETS, Runtime, config_hash, override
from drorae.storage.remote import Remote, copies
from sweeps.driver.run import run_sweep
from sweeps.driver.status import sweep_state
from sweeps.folder.lease import Lease
from sweeps.resources import Resources
from sweeps.spec import Axis, SweepSpec, expand

ROOT = Path(__file__).resolve().parents[2]
SPEC = SweepSpec(
    "mine",
    override(PRESETS["smoke"], "encoder.path", "sleep=0.6&once=4"),
    (Axis("capacity", (4, 8, 16, 32)),),
)
"""Stand-ins for trials, one kind of which fails at first."""


def start(root: str) -> None:
    """A driver that is called in a process of its own."""
    run_sweep(
        SPEC,
        root=root,
        runtime=Runtime(cache_dir=f"{root}-cache"),
        resources=Resources(max_concurrent=2),
        run_trial="fake_trial:run_trial",
        prepare="fake_trial:prepare",
    )


def race(root: str, tries: int, start: Barrier, wins: Queue) -> None:
    for number in range(tries):
        start.wait(300)
        wins.put((number, Remote(f"{root}/{number}").create(str(os.getpid()).encode())))


def hold(url: str, ready: Event) -> None:
    Lease(Remote(url)).acquire()
    ready.set()
    time.sleep(60)


def test_of_two_that_make_a_file_at_once_one_does(store: Remote) -> None:
    context = multiprocessing.get_context("spawn")
    start, wins = context.Barrier(2), context.Queue()
    both = [context.Process(target=race, args=(str(store / "race"), 20, start, wins)) for _ in range(2)]
    for process in both:
        process.start()
    found = [wins.get(timeout=300) for _ in range(40)]
    for process in both:
        process.join()
    assert sorted(number for number, won in found if won) == list(range(20))


def test_a_killed_sweep_is_finished_from_another_machine(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(store / "runs")
    paths = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def move_to(machine: str) -> None:
        monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / machine))
        empty_records(copies(Remote(root), "driver"))

    move_to("first")
    code = f"import test_mirror; test_mirror.start({root!r})"
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    trials = Remote(root) / "mine" / "trials"

    def results() -> dict[str, bytes | None]:
        names = [name for name in trials.files() if name.endswith("/result.json")]
        return {name.partition("/")[0]: (trials / name).read() for name in names}

    deadline = time.monotonic() + 300
    while len(results()) < 2 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.1)
    # The first machine goes, with all that it ran and kept.
    machine = psutil.Process(driver.pid)
    for process in [machine, *machine.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    driver.wait()
    shutil.rmtree(tmp_path / "first")
    before = results()
    assert 2 <= len(before) < 4
    move_to("second")
    assert main(["status", "mine", "--root", root]) == 0
    said = capsys.readouterr().out
    assert f"mine: 4 trials: {len(before)} finished" in said and f"resume mine --root {root}" in said

    command = [sys.executable, "-m", "drorae", "resume", "mine", "--root", root, "--no-fit", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["counts"] == {"finished": 4} and outcome["directory"] == f"{root}/mine"
    after = results()
    assert before.items() <= after.items() and len(after) == 4
    attempts = {key: len((trials / key / "attempts.log").read().splitlines()) for key in after}  # type: ignore[union-attr]
    fails = {config_hash(config) for config in expand(SPEC) if config.fusion.expert_hidden_dim == 4}
    assert {attempts[key] for key in before} <= {1, 2} and sum(attempts.values()) <= 4 + len(fails) + 2
    assert all(attempts[key] == 1 + (key in fails) for key in before), "nothing finished is trained twice"
    state = sweep_state(f"{root}/mine")
    assert state.counts == {"finished": 4} and not state.driven
    left = (Remote(root) / "mine").files()
    assert {"sweep.json", "trials.csv"} <= set(left) and "driver.lease" not in left
    # Trials leave nothing on the machines of their workers.
    assert not list((tmp_path / "second").glob("mirrors/*/worker/mine/trials/*"))
    assert main(["fit", f"{root}/mine", "--x", "params", "--y", "psnr"]) == 0

"""Sweeps and caches in an object store: leases, copies, and machines that share nothing but a URL."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import psutil
import pytest

from drorae.commands.main import main
from drorae.config import PRESETS, Runtime, config_hash, override
from drorae.errors import UserError
from drorae.storage import remote
from drorae.storage.remote import Remote, RemoteError
from sweeps.driver.run import run_sweep
from sweeps.driver.status import sweep_state
from sweeps.folder import lease, mirror
from sweeps.folder.lease import Lease, LeaseLostError, is_live, read_lease
from sweeps.folder.mirror import Mirror, at_work, check_store, local_copy
from sweeps.resources import Resources
from sweeps.spec import Axis, SweepSpec, expand

ROOT = Path(__file__).resolve().parents[2]
SPEC = SweepSpec(
    "mine",
    override(PRESETS["smoke"], "encoder.path", "sleep=0.3&once=4"),
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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's folder for copies."""
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "machine"))
    return tmp_path / "machine"


def test_what_one_machine_sends_another_gets(store: Remote, here: Path, tmp_path: Path) -> None:
    sweep = store / "copies" / "mine"
    ours = Mirror(sweep, "worker")
    trial = ours.local / "trials" / "a"
    trial.mkdir(parents=True)
    for name in ("result.json", "weights.pt", ".lock"):
        (trial / name).write_text(name)
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        upload = Remote.upload
        patch.setattr(Remote, "upload", lambda self, path: (sent.append(path.name), upload(self, path)))
        ours.push()
        ours.push()
        (trial / "weights.pt").write_text("other weights")
        ours.push("trials/a")
    assert sent == ["weights.pt", "result.json", "weights.pt"], "results last, what is the same once, hidden never"

    theirs = Mirror(sweep, "reader")
    theirs.pull(patterns=("trials/*/result.json",))
    assert [path.name for path in theirs.local.rglob("*") if path.is_file()] == ["result.json"]
    theirs.pull("trials/a")
    assert (theirs.local / "trials/a/weights.pt").read_text() == "other weights"
    (trial / "weights.pt").unlink()
    (theirs.local / "trials" / "a" / "stray").write_text("left by somebody who died")
    ours.push()
    theirs.pull("trials/a")
    assert sorted(path.name for path in (theirs.local / "trials/a").iterdir()) == ["result.json"]
    assert local_copy(tmp_path) == tmp_path and (local_copy(str(sweep)) / "trials/a/result.json").is_file()


def test_no_name_in_a_store_leads_out_of_the_copy(store: Remote, here: Path) -> None:
    for number, name in enumerate(("../evil", "a/../../evil", "a//evil", "..\\evil")):
        sweep = store / "hostile" / str(number) / "mine"
        (sweep / name).write(b"evil")
        with pytest.raises(RemoteError, match="which no copy could have"):
            Mirror(sweep, "reader").pull()
    assert not list(here.rglob("*evil"))


def test_a_store_that_is_away_or_wrong_is_one_line(store: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    check_store(store / "runs")
    with pytest.raises(UserError, match="check the bucket's name"):
        check_store(Remote("s3://elsewhere/runs"))
    monkeypatch.setattr(Remote, "create", lambda self, content: True)
    with pytest.raises(UserError, match="If-None-Match"):
        check_store(store / "runs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote._filesystem.cache_clear()
    with pytest.raises(RemoteError) as raised:
        (store / "x").read()
    assert "\n" not in str(raised.value)
    remote._filesystem.cache_clear()


def race(root: str, tries: int, start: Barrier, wins: Queue) -> None:
    for number in range(tries):
        start.wait(60)
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
    found = [wins.get(timeout=60) for _ in range(40)]
    for process in both:
        process.join()
    assert sorted(number for number, won in found if won) == list(range(20))


def test_a_lease_in_a_store_is_kept_by_the_living_and_left_by_the_dead(
    store: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = store / "lease" / "driver.lease"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(str(at), ready))
    holder.start()
    assert ready.wait(60) and is_live(at)
    assert not Lease(at).acquire(wait=False)
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    holder.join()
    assert not is_live(at)
    mine = Lease(at)
    assert mine.acquire(wait=False) and (read_lease(at) or {})["owner"] == mine.owner
    # Another machine's, which sends no beat any more.
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.5)
    mine.release()
    at.write(b'{"owner": "gone", "host": "elsewhere", "pid": 1, "beat": 7}')
    heir = Lease(at)
    assert heir.acquire(wait=False)
    heir.release()
    assert at.parent.files() == {} and read_lease(at) is None


def test_a_trial_at_work_is_sent_while_it_runs_and_whole_at_its_end(
    store: Remote, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.05)
    sweep = store / "work" / "mine"
    (sweep / "trials/a/config.json").write(b"{}")
    lease = Lease(sweep / "trials/a/worker.lease")
    with at_work(Mirror(sweep, "worker"), "trials/a", lease) as folder:
        assert (folder / "config.json").is_file()
        (folder / "phase2.pt").write_text("step 1")
        deadline = time.monotonic() + 20
        while (sweep / "trials/a/phase2.pt").read() != b"step 1" and time.monotonic() < deadline:
            time.sleep(0.02)
        # What a machine that takes over after a kill would find.
        other = Mirror(sweep, "reader")
        other.pull("trials/a")
        assert (other.local / "trials/a/phase2.pt").read_text() == "step 1"
        (folder / "phase2.pt").unlink()
        (folder / "result.json").write_text("{}")
    assert sorted((sweep / "trials/a").files()) == ["config.json", "result.json"] and not folder.exists()


def test_a_store_away_for_a_while_costs_a_trial_nothing(
    store: Remote, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.05)
    sweep, away, upload = store / "away" / "mine", [True], Remote.upload

    def refuse(self: Remote, path: Path) -> None:
        if away[0]:
            raise RemoteError("away")
        upload(self, path)

    monkeypatch.setattr(Remote, "upload", refuse)
    lease = Lease(sweep / "worker.lease")
    with at_work(Mirror(sweep, "worker"), "trials/a", lease) as folder:
        (folder / "result.json").write_text("{}")
        time.sleep(0.3)
        threading.Timer(1.0, lambda: away.clear() or away.append(False)).start()
    assert (sweep / "trials/a/result.json").read() == b"{}"
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.2)
    away[0] = True
    with pytest.raises(RemoteError, match="away"), at_work(Mirror(sweep, "worker"), "trials/a", lease) as folder:
        (folder / "result.json").write_text("again")
    assert (folder / "result.json").is_file(), "what could not be sent stays"


def test_a_killed_sweep_is_finished_from_another_machine(
    store: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(store / "runs")
    paths = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "first"))
    code = f"import test_mirror; test_mirror.start({root!r})"
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    trials = Remote(root) / "mine" / "trials"

    def results() -> dict[str, bytes | None]:
        names = [name for name in trials.files() if name.endswith("/result.json")]
        return {name.partition("/")[0]: (trials / name).read() for name in names}

    deadline = time.monotonic() + 120
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
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "second"))
    assert main(["status", "mine", "--root", root]) == 0
    said = capsys.readouterr().out
    assert f"mine: 4 trials: {len(before)} finished" in said and f"resume mine --root {root}" in said

    command = [sys.executable, "-m", "drorae", "resume", "mine", "--root", root, "--no-fit", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
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


def test_a_sender_whose_trial_was_taken_over_sends_nothing_more(
    store: Remote, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.05)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    sweep = store / "taken" / "mine"
    at = sweep / "trials/a/worker.lease"
    holder = Lease(at)
    holder.acquire()
    with (
        pytest.raises(LeaseLostError, match="trials/a: another process took this over"),
        at_work(Mirror(sweep, "worker"), "trials/a", holder) as folder,
    ):
        at.delete()
        time.sleep(0.3)
        (folder / "phase2.pt").write_text("of one that slept too long")
        time.sleep(0.5)
    holder.release()
    assert sweep.files() == {}, "neither the lease nor the trial's files are made again"

"""Sweeps and caches in an object store: leases, copies, and machines that share nothing but a URL."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from drorae import remote
from drorae.errors import UserError
from drorae.remote import Remote, RemoteError, locate
from sweeps import lease
from sweeps.lease import Lease, is_live, read_lease
from sweeps.mirror import Mirror, brought, check_store

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def store() -> Iterator[Remote]:
    """A bucket of an S3 server on loopback, whose address and credentials are in the environment."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, HERE / "store_server.py", str(port)], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        import s3fs

        deadline = time.monotonic() + 60
        while True:
            try:
                s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
                break
            except Exception:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        remote._filesystem.cache_clear()
        yield Remote("s3://bucket")
        remote._filesystem.cache_clear()
    server.terminate()
    server.wait()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's folder for copies."""
    monkeypatch.setenv("DRORAE_LOCAL_CACHE", str(tmp_path / "machine"))
    return tmp_path / "machine"


def test_a_url_is_told_from_a_path_and_holds_no_secret(tmp_path: Path) -> None:
    assert locate("runs/mine") == Path("runs/mine") and locate(f"file://{tmp_path}") == tmp_path
    assert locate("s3://bucket/runs/") == locate(Path("s3://bucket/runs")) == Remote("s3://bucket/runs")
    for wrong, expected in (
        ("s3://key:secret@bucket/runs", "environment"),
        ("s3://bucket/runs?token=secret", "environment"),
        ("ftp://host/runs", "no such store"),
        ("s3://", "BUCKET"),
        ("s3://bucket/../runs", "BUCKET"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            locate(wrong)
        assert "secret" not in str(raised.value)


def test_a_missing_driver_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match="pip install 'gcsfs'"):
        Remote("gs://bucket/x").read()


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
    assert brought(tmp_path) == tmp_path and (brought(str(sweep)) / "trials/a/result.json").is_file()


def test_no_name_in_a_store_leads_out_of_the_copy(store: Remote, here: Path) -> None:
    for name in ("../evil", "a/../../evil", "a//evil", "..\\evil"):
        sweep = store / "hostile" / str(abs(hash(name))) / "mine"
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
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError) as raised:
        (store / "x").read()
    assert "\n" not in str(raised.value)
    remote._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


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

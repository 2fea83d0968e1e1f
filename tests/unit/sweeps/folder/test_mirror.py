"""A folder of a store and its copies: what is sent, when, and by whom no longer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.storage import remote
from drorae.storage.remote import Remote, RemoteError
from sweeps.folder import lease, mirror
from sweeps.folder.lease import Lease, LeaseLostError
from sweeps.folder.mirror import Mirror, at_work, check_store, local_copy

pytestmark = pytest.mark.slow


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
        deadline = time.monotonic() + 300
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

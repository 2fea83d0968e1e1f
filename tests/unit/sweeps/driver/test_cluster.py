"""The driver notices that a cluster's head node is away, waits for it, and gives up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drorae.commands.main import main
from drorae.errors import ClusterLostError, UserError
from drorae.runtime import commit
from sweeps.driver import cluster
from sweeps.driver.cluster import HeadWatch, cluster_address, ray_session


def until(condition: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


class Fake(HeadWatch):
    """A watch of a cluster that is well or not as it is told."""

    def __init__(self, last: Callable[[ClusterLostError], None] = lambda error: None) -> None:
        self.said: list[str] = []
        self.trouble: str | None = None
        super().__init__(self.said.append, last)

    def __enter__(self) -> HeadWatch:
        self._thread.start()
        return self

    def _trouble(self) -> str | None:
        return self.trouble


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that looks often and gives up soon."""
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(cluster, "LOST_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "STUCK_SECONDS", 0.5)


AWAY = "the Ray head node at 10.0.0.1:6379 does not answer (Connection refused)"


def test_a_head_node_that_stays_away_is_lost(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOST_SECONDS", 3.0)
    late: list[ClusterLostError] = []
    with Fake(late.append) as watch:
        assert isinstance(watch, Fake)
        time.sleep(0.1)
        watch.check()
        assert watch.said == []
        began = time.monotonic()
        watch.trouble = AWAY
        until(lambda: watch.said)
        # Not at once: it may come back.
        watch.check()
        until(lambda: watch._lost)
        assert time.monotonic() - began > 2.9
        for _ in range(2):
            with pytest.raises(ClusterLostError, match="does not answer"):
                watch.check()
        time.sleep(0.7)
    assert watch.said == [f"{AWAY}; waiting up to 3 s for it"]
    # Whoever calls check needs nobody to end the process.
    assert late == []


def test_a_head_node_that_answers_again_is_not(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOST_SECONDS", 3.0)
    with Fake() as watch:
        assert isinstance(watch, Fake)
        for count in (1, 2):
            watch.trouble = AWAY
            until(lambda count=count: len(watch.said) == count)
            time.sleep(0.2)
            watch.trouble = None
            time.sleep(0.2)
            watch.check()
        time.sleep(3.2)
        watch.check()


def test_where_nobody_checks_the_last_word_is_had(hasty: None) -> None:
    late: list[ClusterLostError] = []
    with Fake(late.append) as watch:
        assert isinstance(watch, Fake)
        watch.trouble = AWAY
        until(lambda: late)
        assert str(late[0]) == AWAY
        assert len(watch.said) == 1


def test_no_last_word_once_the_work_is_over(hasty: None) -> None:
    late: list[ClusterLostError] = []
    with Fake(late.append) as watch:
        assert isinstance(watch, Fake)
        watch.trouble = AWAY
        until(lambda: watch._lost)
    time.sleep(0.7)
    assert late == []
    assert not watch._thread.is_alive()


def test_errors_of_a_head_node_that_is_away_are_its_loss(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOST_SECONDS", 60.0)
    for error in (RuntimeError("GCS"), ConnectionError("refused"), KeyError("node")):
        with pytest.raises(ClusterLostError, match="does not answer") as caught, Fake() as watch:
            assert isinstance(watch, Fake)
            watch.trouble = AWAY
            raise error
        assert caught.value.__cause__ is error
        # With a head node that answers, it is what it is.
        with pytest.raises(type(error)), Fake():
            raise error
    # What a user can mend, and what asks the process to end, are no news of a cluster.
    for end in (UserError("nothing there"), ClusterLostError("another"), KeyboardInterrupt(), SystemExit(143)):
        with pytest.raises(type(end)) as raised, Fake() as watch:
            assert isinstance(watch, Fake)
            watch.trouble = AWAY
            raise end
        assert raised.value is end


def test_without_a_session_there_is_nothing_to_watch() -> None:
    threads = threading.active_count()
    with HeadWatch(lambda text: None, lambda error: None) as watch:
        watch.check()
        assert threading.active_count() == threads
    with pytest.raises(ZeroDivisionError), HeadWatch(lambda text: None, lambda error: None):
        raise ZeroDivisionError


def test_it_asks_the_head_nodes_port_and_its_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = HeadWatch(lambda text: None, lambda error: None)
    watch._node = "here"
    alive = {"here": True}
    monkeypatch.setattr(
        cluster, "_nodes", lambda: [{"NodeID": name, "Alive": well} for name, well in alive.items()]
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch._address = f"127.0.0.1:{server.getsockname()[1]}"
        assert watch._trouble() is None
        alive["here"] = False
        assert watch._trouble() == "Ray's own process on this machine (raylet) has died"
        # A head node that is busy names none.
        alive.clear()
        assert watch._trouble() is None
    assert watch._trouble() == f"the Ray head node at {watch._address} does not answer (Connection refused)"


def test_a_cluster_is_given_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address("") == "10.0.0.1:6379"
    assert cluster_address("auto") == "auto" and cluster_address("local") == ""
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_address("") == ""


@pytest.mark.parametrize("address", ["http://head:8265", "https://head:8265/", "head", "head:x", ":6379"])
def test_what_is_no_cluster_s_address_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    said: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"from RAY_ADDRESS.*unset RAY_ADDRESS to run here") as raised:
        cluster.check_joinable("", said.append)
    with pytest.raises(UserError, match="leave --address out to run here"):
        cluster.check_joinable(address, said.append)
    assert said == [] and ("ray job submit" in str(raised.value)) == address.startswith("http")


@pytest.mark.parametrize("kind", ["refuses", "is silent", "closes", "is a dashboard"])
def test_a_stale_address_is_not_waited_for_longer_than_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert cluster.JOIN_SECONDS == 30
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 1.5)
    monkeypatch.setattr(cluster, "GREET_SECONDS", 0.2)
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            if kind != "closes":
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

    if kind == "refuses":
        server.close()
    elif kind != "is silent":
        threading.Thread(target=answer, daemon=True).start()
    said: list[str] = []
    naps: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (naps.append(seconds), sleep(seconds)))
    with pytest.raises(UserError, match=rf"{address} \(from RAY_ADDRESS\) .*unset RAY_ADDRESS to run here"):
        cluster.check_joinable("", said.append)
    assert said == [f"joining {address} (from RAY_ADDRESS)"] and sum(naps) < cluster.JOIN_SECONDS
    server.close()


def test_a_sweep_that_joins_nothing_leaves_nothing(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        assert main(["sweep", "--preset", "smoke", "--no-fit"]) == 2
    assert "unset RAY_ADDRESS to run here" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
    (elsewhere / "runs").mkdir()
    assert main(["sweep", "--preset", "smoke", "--no-fit"]) == 2
    assert list(elsewhere.rglob("*")) == [elsewhere / "runs"]


def test_a_cluster_is_sent_the_code_with_its_commit_and_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(commit, "git_commit", lambda: "abc-dirty")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with ray_session("10.0.0.1:6379"):
        environment = given["runtime_env"]["env_vars"]
    assert environment["DRORAE_COMMIT"] == "abc-dirty" and "hidden" not in environment.values()
    # What the nodes' own environment says of it is not taken away.
    monkeypatch.setattr(commit, "git_commit", lambda: commit.UNKNOWN)
    with ray_session("10.0.0.1:6379"):
        assert "DRORAE_COMMIT" not in given["runtime_env"]["env_vars"]

"""A Ray cluster of several nodes on one machine, with token authentication, whose nodes can be killed and replaced.

Nodes differ in what they have, as machines do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
START_SECONDS = 300


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in taken:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in taken]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all below it, as when a machine loses power."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for item in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                item.send_signal(signal.SIGKILL)
    process.wait()


class LocalCluster:
    """A head and other nodes; a context manager that ends what is left of them.

    Args:
        folder: for the token, the nodes' logs and Ray's temporary files; short, as sockets lie below it.
        dashboard: whether jobs can be submitted, to `dashboard_url`.
        beat_seconds: how often the head asks a node whether it lives; after three silences it is dead. Ray's own
            are 3 s and five.
        extra: more of the nodes' environment.
    """

    def __init__(
        self, folder: Path, dashboard: bool = False, beat_seconds: float = 1.0, extra: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.gcs, self._dashboard = free_ports(2)
        self.address = f"127.0.0.1:{self.gcs}"
        self.dashboard_url = f"http://127.0.0.1:{self._dashboard}"
        self._with_dashboard = dashboard
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._count = 0
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        # The environment of the nodes that are started from now on.
        self.own = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            **(extra or {}),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": str(int(1000 * beat_seconds)),
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        }

    @property
    def environment(self) -> dict[str, str]:
        """That of a process that joins the cluster, with `DASHBOARD` for jobs."""
        # A head that finds its own address in the environment takes itself for a guest.
        return self.own | {"RAY_ADDRESS": self.address, "DASHBOARD": self.dashboard_url}

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self.nodes):
            kill_tree(node)
        self.nodes.clear()

    def start(self, cpus: float, gpus: float = 0, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a node, the head if it is the first, and waits until it has joined; GPUs are numbers only.

        `extra`: more of its environment.
        """
        where = ["--address", self.address]
        if not self.nodes:
            where = ["--head", "--port", str(self.gcs), "--temp-dir", str(self.folder / "r"),
                     f"--include-dashboard={str(self._with_dashboard).lower()}",
                     "--dashboard-port", str(self._dashboard)]  # fmt: skip
        agent = free_ports(1)[0]
        command = [RAY, "start", *where, "--num-cpus", str(cpus),
                   "--num-gpus", str(gpus), "--dashboard-agent-listen-port", str(agent),
                   "--object-store-memory", "100000000", "--disable-usage-stats", "--block"]  # fmt: skip
        path = self.folder / f"node{self._count}.log"
        self._count += 1
        with path.open("wb") as log:
            own = {**self.own, **(extra or {})}
            node = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in path.read_bytes():
            if node.poll() is not None or time.monotonic() > deadline:
                kill_tree(node)
                raise RuntimeError(f"a node did not start:\n{path.read_text()[-2000:]}")
            time.sleep(0.1)
        self.nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Ends a node as a power cut does."""
        kill_tree(node)
        self.nodes.remove(node)


@contextlib.contextmanager
def two_nodes(
    folder: Path, head: tuple[float, float], other: tuple[float, float], extra: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Two nodes of so many CPUs and GPUs, which take jobs; the environment of processes that may join them."""
    with LocalCluster(folder, dashboard=True, extra=extra) as cluster:
        cluster.start(*head)
        cluster.start(*other)
        yield cluster.environment

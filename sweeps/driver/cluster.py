"""A Ray session for a sweep: a local one, or a cluster that is joined."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drorae.errors import ClusterLostError, UserError, brief, one_line
from drorae.runtime import commit

LOOK_SECONDS = 2.0
"""Between two looks at the head node."""
LOST_SECONDS = 20.0
"""A head node that does not answer for so long is lost. Ray ends the process itself after 60."""
END_SECONDS = 5.0
"""How long processes that were killed may take to go."""
JOIN_SECONDS = 30.0
"""A head node that has not answered for so long is not joined. Ray itself gives up after a quarter of an hour."""
GREET_SECONDS = 5.0
"""Longest wait for one answer of it."""
_WEB = "is a web server, such as Ray's dashboard, and no head node"
PRINTED_BYTES = 2**23
"""Of what a worker prints, a file of Ray's holds no more."""
STUCK_SECONDS = 10.0
"""So long the driver may take to notice, before it is taken to hang in a call to Ray."""


def cluster_address(address: str) -> str:
    """The cluster to join: the one given, else that of Ray's own RAY_ADDRESS, which `ray job submit` sets; "": none."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def check_joinable(address: str, say: Callable[[str], None]) -> None:
    """Returns once a cluster's head node answers at an address, as `cluster_address` takes it; Ray would wait minutes.

    Raises:
        UserError: none does within `JOIN_SECONDS`, or the address is no cluster's.
    """
    given = address not in ("", "auto")
    found = address if given else os.environ.get("RAY_ADDRESS", "")
    if found in ("", "auto", "local"):
        return
    whence, remedy = ("", "leave --address out") if given else (" (from RAY_ADDRESS)", "unset RAY_ADDRESS")
    here = f"{remedy} to run here"
    if found.startswith(("http://", "https://")):
        raise UserError(
            f"{found}{whence} is an address for `ray job submit`, which a sweep cannot join; submit the sweep there "
            f"(ray job submit --address {found} -- drorae sweep ...), name the head node as HOST:6379, or {here}"
        )
    kind, _, rest = found.rpartition("://")
    if kind not in ("", "ray"):
        # Ray has plugins for other kinds.
        return
    host, _, port = rest.partition("/")[0].partition("?")[0].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{found}{whence}: no address of a Ray cluster; expected HOST:PORT, or {here}")
    say(f"joining {found}{whence}")
    deadline = time.monotonic() + JOIN_SECONDS
    while trouble := _greet(host.strip("[]"), int(port)):
        if time.monotonic() + 1 > deadline or trouble == _WEB:
            raise UserError(f"Ray at {found}{whence} {trouble}; start the cluster, correct the address, or {here}")
        time.sleep(1)


def _greet(host: str, port: int) -> str:
    """Returns what is wrong with a head node; empty where one answers, as gRPC servers do, with HTTP/2 settings."""
    try:
        with socket.create_connection((host, port), timeout=GREET_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return ""
            connection.settimeout(GREET_SECONDS)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            answer = connection.recv(9)
    except OSError as error:
        return f"does not answer ({error.strerror or one_line(error)})"
    if answer[3:4] == b"\4":
        return ""
    return _WEB if answer.startswith((b"HTTP", b"<")) else "does not answer as a Ray head node does"


@contextlib.contextmanager
def ray_session(address: str, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """A Ray session: the one there is, the cluster at `address`, or a local one that ends with the sweep.

    Args:
        address: as `cluster_address` takes it.
        say: told which cluster is joined, and who named it.

    Raises:
        UserError: Ray is not installed, does not start, or nothing answers at the address.
    """
    given, address = address, cluster_address(address)
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Tune's own result files and TensorBoard logs: nobody reads them here.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # What a worker prints is kept in Ray's folder for temporary files: the last of it, twice so many bytes.
        "RAY_ROTATION_MAX_BYTES": str(PRINTED_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import the project from where it is, installed or not.
    source = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])
    try:
        import ray
    except ImportError:
        raise UserError("a sweep needs Ray; pip install 'ray[tune]'") from None
    if ray.is_initialized():
        yield
        return
    check_joinable(given, say)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            environment = {name: os.environ[name] for name in settings}
            if (ours := commit.git_commit()) != commit.UNKNOWN:
                environment[commit.VARIABLE] = ours
            packages = [str(Path(source) / name) for name in ("drorae", "sweeps")]
            # The code is sent along, and its commit: nodes need its dependencies, not this version of it. No
            # credentials: workers find those in their own nodes' environment.
            ray.init(address=address, runtime_env={"env_vars": environment, "py_modules": packages}, **common)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=2**28, **common)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address} " if address else ""
        raise UserError(f"Ray {where}did not start ({brief(error)})") from None
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[dict[str, Any]]:
    """The session's nodes as Ray describes them: `Resources`, `NodeManagerAddress`."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def free_cpus() -> float:
    """The CPUs that nobody holds on the node that has most of them; 0 where Ray does not say, as through Ray Client."""
    # Ray's public functions tell what is free in all, which no single node may have.
    from ray._private.state import available_resources_per_node
    from ray.exceptions import RaySystemError

    with contextlib.suppress(RaySystemError):
        return max((float(free.get("CPU", 0.0)) for free in available_resources_per_node().values()), default=0.0)
    return 0.0


def end_own_workers() -> None:
    """Kills the workers of a session that this process has started; those of a cluster that it has joined go on.

    Without their head node they live on for seconds, in which one may begin what nobody awaits any more.
    """
    import psutil

    for raylet in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "raylet" not in raylet.name():
                continue
            # It goes first, so that it starts no others.
            workers = raylet.children(recursive=True)
            raylet.kill()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            psutil.wait_procs(workers, timeout=END_SECONDS)


class HeadWatch:
    """Watches the session's head node from a thread; a context manager. Nothing to watch where there is no session.

    Args:
        say: told once when the head node stops answering.
        last: called in the thread, with what `check` would raise, where nobody calls `check` for STUCK_SECONDS: Ray
            keeps some calls for ever, and then ends the process.
    """

    def __init__(self, say: Callable[[str], None], last: Callable[[ClusterLostError], None]) -> None:
        self._say, self._last = say, last
        self._lost: ClusterLostError | None = None
        self._noticed = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> HeadWatch:
        import ray

        if ray.is_initialized():
            context = ray.get_runtime_context()
            self._address, self._node = context.gcs_address, context.get_node_id()
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        if not self._thread.is_alive():
            return
        self._noticed.set()
        self._thread.join(LOOK_SECONDS)
        # Ray's calls may have noticed first, in errors of many kinds.
        if isinstance(error, Exception) and not isinstance(error, ClusterLostError | UserError):
            trouble = self._trouble()
            if trouble is not None:
                raise ClusterLostError(trouble) from error

    def check(self) -> None:
        """Does nothing, or raises.

        Raises:
            ClusterLostError: the head node is gone.
        """
        if self._lost is not None:
            self._noticed.set()
            raise self._lost

    def _look(self) -> None:
        silent_since: float | None = None
        while not self._over.wait(LOOK_SECONDS):
            trouble = self._trouble()
            if trouble is None:
                silent_since = None
                continue
            if silent_since is None:
                silent_since = time.monotonic()
                self._say(f"{trouble}; waiting up to {LOST_SECONDS:.0f} s for it")
            if time.monotonic() - silent_since >= LOST_SECONDS:
                self._lost = ClusterLostError(trouble)
                if not self._noticed.wait(STUCK_SECONDS) and not self._over.is_set():
                    self._last(self._lost)
                return

    def _trouble(self) -> str | None:
        """What is wrong with the cluster; None where nothing is."""
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_SECONDS).close()
        except OSError as error:
            return f"the Ray head node at {self._address} does not answer ({error.strerror or one_line(error)})"
        nodes = {node["NodeID"]: node["Alive"] for node in _nodes()}
        return None if nodes.get(self._node, True) else "Ray's own process on this machine (raylet) has died"


def _nodes() -> list[dict[str, Any]]:
    import ray

    try:
        return list(ray.nodes())
    except Exception:  # whatever Ray raises while its head node goes away
        return []


def require_tune() -> None:
    """Raises UserError where Ray has no Tune."""
    try:
        from ray import tune  # noqa: F401
    except ImportError:
        raise UserError("a sweep needs Ray Tune; pip install 'ray[tune]'") from None

"""A Ray session for a sweep: a local one, or a cluster that is joined."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drorae.errors import UserError, one_line


@contextlib.contextmanager
def ray_session(address: str) -> Iterator[None]:
    """A Ray session: the one there is, the cluster at `address`, or a local one that ends with the sweep.

    Ray's own RAY_ADDRESS, which `ray job submit` sets, is an address like one that is given.

    Raises:
        UserError: Ray is not installed, does not start, or nothing answers at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
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
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Workers import the project from where it is, installed or not.
    source = str(Path(__file__).resolve().parent.parent)
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
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            environment = {name: os.environ[name] for name in settings}
            packages = [str(Path(source) / name) for name in ("drorae", "sweeps")]
            # The code is sent along: nodes need its dependencies, not this version of it. No credentials: workers find
            # those in their own nodes' environment.
            ray.init(address=address, runtime_env={"env_vars": environment, "py_modules": packages}, **common)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=2**28, **common)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address} " if address else ""
        raise UserError(f"Ray {where}did not start ({one_line(error)[:200]})") from None
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[dict[str, Any]]:
    """The session's nodes as Ray describes them: `Resources`, `NodeManagerAddress`."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def require_tune() -> None:
    """Raises UserError where Ray has no Tune."""
    try:
        from ray import tune  # noqa: F401
    except ImportError:
        raise UserError("a sweep needs Ray Tune; pip install 'ray[tune]'") from None

"""What runs in Ray's worker processes: a preparation, a trial in one process, a trial in several through Ray Train."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drorae.config import Runtime, TrialConfig, from_dict, load_config
from drorae.errors import Notice, UserError, one_line
from drorae.files import write_json
from drorae.remote import Remote, RemoteError, locate, patiently
from sweeps.lease import Lease
from sweeps.mirror import PUSH_SECONDS, Mirror, at_work
from sweeps.resources import Share
from sweeps.state import Sitting
from sweeps.tracking import RunAddress, TrialTracker


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of the sweep: paths and scalars only."""

    trials: str
    runtime: Runtime
    """With threads 0 a process uses its CPUs."""
    address: RunAddress
    run_trial: str
    """`module:function`."""
    report_epochs: bool
    """Tell Tune the mean loss of each epoch, for a scheduler to decide by."""
    remote: str = ""
    """URL of the sweep's folder where that is in a store: `trials` is then the driver's own copy."""


def prepare(config_json: str, runtime: Runtime, log: str, function: str) -> dict[str, Any] | None:
    """One preparation by `module:function`, its rows written to `log`, a path or a URL. None, or what the user has to
    mend."""
    place = locate(log)
    with _remote_log(place) if isinstance(place, Remote) else _disk_log(place) as write:
        try:
            _load(function)(from_dict(TrialConfig, json.loads(config_json)), runtime, write)
        except UserError as error:
            return {"reason": one_line(error), "user": True}
    return None


@contextlib.contextmanager
def _disk_log(path: Path) -> Iterator[Callable[[dict[str, float | str]], None]]:
    with path.open("w") as file:

        def write(row: dict[str, float | str]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield write


@contextlib.contextmanager
def _remote_log(place: Remote) -> Iterator[Callable[[dict[str, float | str]], None]]:
    """Sends all rows again every few seconds: a store's files do not grow."""
    rows: list[str] = []
    due = 0.0

    def send() -> None:
        # Progress is not worth a preparation.
        with contextlib.suppress(RemoteError):
            place.write("".join(rows).encode())

    def write(row: dict[str, float | str]) -> None:
        nonlocal due
        rows.append(json.dumps(row) + "\n")
        if time.monotonic() >= due:
            send()
            due = time.monotonic() + PUSH_SECONDS

    try:
        yield write
    finally:
        send()


def run_one(work: Work, key: str, share: Share) -> None:
    """One trial, recorded, inside a Tune trial. A UserError is left as failure.json, any other raised for a retry."""
    mirror = None if not work.remote else Mirror(Remote(work.remote), "worker")
    if mirror is not None:
        work = replace(work, trials=str(mirror.local / "trials"))
    directory = Path(work.trials) / key
    place = directory if mirror is None else mirror.remote / "trials" / key
    # A driver that was cut off may have left a worker that does not know: it is waited for, or outlived.
    with Lease(place / "worker.lease") as lease:
        patiently(lease.acquire)
        with contextlib.nullcontext() if mirror is None else at_work(mirror, f"trials/{key}", lease):
            (directory / "error.txt").unlink(missing_ok=True)
            if share.processes > 1:
                _run_together(work, key, share)
                return
            from ray import tune

            with Sitting(directory, share, lease) as sitting:
                _attempt(work, key, threads(work.runtime, share), tune.report, sitting)


def threads(runtime: Runtime, share: Share) -> Runtime:
    """The runtime with as many threads as a process of the trial has CPUs, where it leaves that open."""
    return replace(runtime, threads=runtime.threads or max(1, int(share.cpus / share.processes)))


def _run_together(work: Work, key: str, share: Share) -> None:
    """One trial in several processes, which Ray Train starts and which torch's DDP holds together.

    The processes' resources are a placement group of Ray Train's own, which Ray grants whole or not at all, and the
    Tune trial around it holds none: two such trials cannot each hold half of what both need.
    """
    # A trial waits for its turn, however long that takes.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(365 * 86400)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.tune.integration.ray_train import TuneReportCallback

    directory = Path(work.trials) / key
    storage = directory / "ray"

    def process() -> None:
        import ray.train
        from ray.train.torch import get_device

        runtime = threads(work.runtime, share)
        if share.gpus:
            runtime = replace(runtime, device=str(get_device()))
        main = ray.train.get_context().get_world_rank() == 0
        with Sitting(directory, share) if main else contextlib.nullcontext() as sitting:
            fine = _attempt(work, key, runtime, ray.train.report, sitting)
        if not fine:
            # The others may wait for this one.
            raise UserError("this trial failed")

    trainer = TorchTrainer(
        process,
        # The others wait for the main process while it evaluates; of one that died Ray Train knows by itself.
        torch_config=TorchConfig(backend="nccl" if share.gpus else "gloo", timeout_s=7 * 86400),
        scaling_config=ScalingConfig(
            num_workers=share.processes, use_gpu=share.gpus > 0, resources_per_worker=share.one()
        ),
        run_config=RunConfig(
            name=key,
            storage_path=str(storage),
            # Tune tries again, and knows how often.
            failure_config=FailureConfig(max_failures=0),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # annotated with the callback of old Train
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError:
        if not (directory / "failure.json").is_file():
            raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextlib.contextmanager
def _notices(warn: Callable[[str], None]) -> Iterator[None]:
    """Hands on what a trial came through: the driver says it."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            warn(str(message))
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield


def _attempt(
    work: Work, key: str, runtime: Runtime, send: Callable[[dict[str, Any]], None], sitting: Sitting | None
) -> bool:
    """One process's part in a trial; False after a UserError, left as failure.json.

    The main process tracks the trial and has a `sitting`.

    Any other exception is raised, and stands in error.txt.
    """
    directory = Path(work.trials) / key
    config = load_config(directory / "config.json")

    def warn(line: str) -> None:
        with (directory / "warnings.txt").open("a") as file:
            file.write(line + "\n")

    tracker = TrialTracker(work.address, config, directory, warn) if sitting is not None else None
    if tracker is not None:
        tracker.start()
    epochs = _Epochs() if work.report_epochs else None

    def report(row: dict[str, float | str]) -> None:
        if tracker is not None and sitting is not None:
            sitting.report(row)
            tracker.report(row)
        if epochs is not None and epochs.completes(row):
            if tracker is not None:
                tracker.flush()
            # Every process has the same rows, and Ray Train waits for all of them.
            send(epochs.take())

    try:
        with _notices(warn):
            _load(work.run_trial)(config, report, directory=directory, runtime=runtime)
        fine = True
    except UserError as error:
        write_json(directory / "failure.json", {"reason": one_line(error)})
        fine = False
    except Exception:
        (directory / "error.txt").write_text(traceback.format_exc())
        if tracker is not None:
            tracker.flush()
        raise
    if tracker is not None:
        tracker.finish()
    return fine


class _Epochs:
    """The mean training loss of each completed epoch of phase 2."""

    def __init__(self) -> None:
        self._epoch = 0
        self._losses: list[float] = []

    def completes(self, row: Mapping[str, float | str]) -> bool:
        """Takes a row; True when it completed an epoch."""
        if row.get("phase") != "phase2" or "loss" not in row or "epoch" not in row:
            return False
        self._losses.append(float(row["loss"]))
        return int(float(row["epoch"])) > self._epoch

    def take(self) -> dict[str, Any]:
        """The epoch's number and loss."""
        self._epoch += 1
        mean = sum(self._losses) / len(self._losses)
        self._losses = []
        return {"epoch": self._epoch, "loss": mean}


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)

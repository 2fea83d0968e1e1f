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
from drorae.errors import DiskFull, Notice, UserError, last_line, one_line
from drorae.storage.files import full_disk, has_room, write_atomic, write_json
from drorae.storage.remote import Remote, RemoteError, locate, patiently
from drorae.trial.folder import set_damaged_aside
from sweeps.folder.lease import Lease
from sweeps.folder.mirror import PUSH_SECONDS, Mirror, at_work
from sweeps.folder.status import Sitting
from sweeps.resources import Share
from sweeps.tracking.client import RunAddress, TrialTracker
from sweeps.tracking.recorder import Recorder

ROOM_BYTES = 2**20
"""A disk with less room is full."""
ROOM_SECONDS = 1800.0


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
    max_failures: int
    """Errors after which a trial is given up."""
    remote: str = ""
    """URL of the sweep's folder where that is in a store: `trials` is then the driver's own copy."""


def prepare(
    config_json: str, runtime: Runtime, log: str, function: str, inputs: Mapping[str, str]
) -> dict[str, Any] | None:
    """Prepares once; returns None, or what the user has to mend.

    Ray tries again on the same log: an attempt leaves the rows of the ones before it where they are.

    Args:
        config_json: a trial of those that share it.
        runtime: device, threads, cache.
        log: path or URL of the file that its rows are added to.
        function: `module:function` that prepares, and may return fingerprints of what it prepared from.
        inputs: the fingerprints that the sweep's trials were made from so far, which must be the same.
    """
    config = from_dict(TrialConfig, json.loads(config_json))
    place = locate(log)
    with _remote_log(place) if isinstance(place, Remote) else _disk_log(place) as write:
        try:
            found = _load(function)(config, runtime, write)
            if found and inputs:
                from drorae.trial.inputs import check_same

                remedy = "put it back, or choose another folder (--name, --out)"
                check_same(config, runtime, inputs, found, "the sweep's trials were made", remedy)
        except UserError as error:
            return {"reason": one_line(error), "user": True}
    return None


@contextlib.contextmanager
def _disk_log(path: Path) -> Iterator[Callable[[dict[str, float | str]], None]]:
    # Unbuffered, so that nothing is left for closing the file to fail at.
    with path.open("ab", buffering=0) as file:

        def write(row: dict[str, float | str]) -> None:
            # Only for show: a full disk is the preparation's to complain of.
            with contextlib.suppress(OSError):
                # A line that was cut short ends here.
                file.write(b"\n" + json.dumps(row).encode() + b"\n")

        yield write


@contextlib.contextmanager
def _remote_log(place: Remote) -> Iterator[Callable[[dict[str, float | str]], None]]:
    """Sends all rows again every few seconds: a store's files do not grow."""
    rows: list[str] = []
    due = 0.0
    with contextlib.suppress(RemoteError):
        rows.append((place.read() or b"").decode())

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
    """One trial, recorded, inside a Tune trial.

    What it raises is raised for a retry, and left as failure.json after `max_failures` of them; a UserError at once.
    """
    mirror = None if not work.remote else Mirror(Remote(work.remote), "worker")
    if mirror is not None:
        work = replace(work, trials=str(mirror.local / "trials"))
    directory = Path(work.trials) / key
    place = directory if mirror is None else mirror.remote / "trials" / key
    if mirror is None:
        # A lease is a file, too.
        wait_for_room(directory)
    # A driver that was cut off may have left a worker that does not know: it is waited for, or outlived.
    with Lease(place / "worker.lease") as lease:
        patiently(lease.acquire)
        with contextlib.nullcontext() if mirror is None else at_work(mirror, f"trials/{key}", lease):
            set_damaged_aside(directory)
            attempt = len(errors(directory)) + 1
            try:
                _attend(work, key, share, lease, attempt)
            except Exception:
                # What lies in the folder is another's by now.
                lease.check()
                raised = errors(directory)[attempt - 1 :]
                if not raised or attempt <= work.max_failures:
                    raise
                write_json(directory / "failure.json", {"reason": last_line(raised[0].read_text())})


def _attend(work: Work, key: str, share: Share, lease: Lease, attempt: int) -> None:
    if share.processes > 1:
        _run_together(work, key, share, lease, attempt)
        return
    from ray import tune

    with Sitting(Path(work.trials) / key, share, lease) as sitting:
        _attempt(work, key, threads(work.runtime, share), tune.report, sitting, lease, attempt)


def errors(directory: Path) -> list[Path]:
    """The tracebacks of the attempts at a trial that raised, in order."""
    return sorted(directory.glob("error-*.txt"))


def wait_for_room(directory: Path) -> None:
    """Waits while the disk is full: somebody makes room, and a trial that cannot save is no trial.

    Raises:
        DiskFull: nobody did for `ROOM_SECONDS`.
    """
    deadline = time.monotonic() + ROOM_SECONDS
    while not has_room(directory, ROOM_BYTES):
        if time.monotonic() > deadline:
            raise DiskFull(full_disk(directory))
        time.sleep(1)


def threads(runtime: Runtime, share: Share) -> Runtime:
    """The runtime with as many threads as a process of the trial has CPUs, where it leaves that open."""
    return replace(runtime, threads=runtime.threads or max(1, int(share.cpus / share.processes)))


def _run_together(work: Work, key: str, share: Share, lease: Lease, attempt: int) -> None:
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
    path, owner = lease.path, lease.owner

    def process() -> None:
        import ray.train
        from ray.train.torch import get_device

        lease = Lease(path, owner)
        runtime = threads(work.runtime, share)
        if share.gpus:
            runtime = replace(runtime, device=str(get_device()))
        main = ray.train.get_context().get_world_rank() == 0
        with Sitting(directory, share, lease) if main else contextlib.nullcontext() as sitting:
            fine = _attempt(work, key, runtime, ray.train.report, sitting, lease, attempt)
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
        lease.check()
        if not (directory / "failure.json").is_file():
            raise
    finally:
        if not lease.lost:
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
    work: Work,
    key: str,
    runtime: Runtime,
    send: Callable[[dict[str, Any]], None],
    sitting: Sitting | None,
    lease: Lease,
    attempt: int,
) -> bool:
    """One process's part in a trial; False after a UserError, left as failure.json.

    The main process tracks the trial and has a `sitting`.

    Any other exception is raised, and stands in `error-<attempt>.txt`; so is that of a full disk, which the next
    attempt waits for. A lost lease is raised, and leaves nothing.
    """
    directory = Path(work.trials) / key
    config = load_config(directory / "config.json")

    def warn(line: str) -> None:
        # On a full disk, mostly one that says so: not worth the trial.
        with contextlib.suppress(OSError), (directory / "warnings.txt").open("a") as file:
            file.write(line + "\n")

    epochs = _Epochs() if work.report_epochs else None
    tracked = (
        contextlib.nullcontext() if sitting is None else Recorder(TrialTracker(work.address, config, directory, warn))
    )
    with tracked as recorder:

        def report(row: dict[str, float | str]) -> None:
            lease.check()
            if recorder is not None and sitting is not None:
                sitting.report(row)
                recorder.report(row)
            if epochs is not None and epochs.completes(row):
                if recorder is not None:
                    recorder.flush()
                # Every process has the same rows, and Ray Train waits for all of them.
                send(epochs.take())

        try:
            with _notices(warn):
                _load(work.run_trial)(config, report, directory=directory, runtime=runtime)
            fine = True
        except Exception as error:
            # The folder of one that was lost is another's.
            lease.check()
            if not _is_final(error, directory):
                with contextlib.suppress(OSError):
                    write_atomic(directory / f"error-{attempt:03d}.txt", traceback.format_exc().encode())
                raise
            fine = False
        if recorder is not None:
            recorder.finish()
    return fine


def _is_final(error: Exception, directory: Path) -> bool:
    """Whether an error is the user's to mend, and recorded so; a full disk is waited for by the next attempt."""
    if not isinstance(error, UserError) or isinstance(error, DiskFull):
        return False
    try:
        write_json(directory / "failure.json", {"reason": one_line(error)})
    except OSError:
        return False
    return True


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

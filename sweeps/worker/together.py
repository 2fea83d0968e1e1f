"""A trial in several processes, which Ray Train starts and which share its batches and its measurements."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drorae.config import Runtime
from drorae.errors import UserError
from drorae.trial.folder import FAILURE
from sweeps.resources import Share
from sweeps.worker.attempt import Attempt, threads, train


def run_together(
    process: Callable[[], None], share: Share, name: str, storage: Path, callbacks: Sequence[Any] = ()
) -> None:
    """Runs a function in as many processes as a share says, and waits until they are done.

    The processes' resources are a placement group of Ray Train's own, which Ray grants whole or not at all: whoever
    calls this holds none, and two such jobs cannot each hold half of what both need. A job waits for its turn, however
    long that takes: every minute it asks anew, should the cluster have lost sight of it.

    Args:
        process: does one process's part.
        share: what all of them get.
        name: of the job, for Ray Train.
        storage: a folder that all can write to, which is removed in the end by whoever knows that it may be.
        callbacks: of Ray Train's.

    Raises:
        TrainingFailedError: one of them raised, or died.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from drorae.runtime import distributed

    trainer = TorchTrainer(
        process,
        # The others wait for the main process at times; of one that died Ray Train knows by itself.
        torch_config=TorchConfig(
            backend="nccl" if share.gpus else "gloo", timeout_s=int(distributed.PATIENCE.total_seconds())
        ),
        scaling_config=ScalingConfig(
            num_workers=share.processes, use_gpu=share.gpus > 0, resources_per_worker=share.one()
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            # Whoever sends the job tries again, and knows how often.
            failure_config=FailureConfig(max_failures=0),
            callbacks=[*callbacks, _giving_back()],
        ),
    )
    trainer.fit()


def _giving_back() -> Any:
    """A callback of Ray Train's that ends the processes of a group which lost one just when they were told to begin.

    Of such a group the controller knows nothing yet: it fails, and leaves the others with what they hold, for which
    whoever comes next would wait in vain.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

    class GivingBack(WorkerGroupCallback, ControllerCallback):
        def __init__(self) -> None:
            self.group: Any = None

        def after_worker_group_start(self, worker_group: Any) -> None:
            self.group = worker_group

        async def before_controller_shutdown(self) -> None:
            # One that the controller has shut down itself is no longer started.
            if self.group is not None and self.group.has_started():
                self.group.shutdown()

    return GivingBack()


def own_part(runtime: Runtime, share: Share) -> tuple[Runtime, bool]:
    """Returns the runtime of one of several processes, with its own device, and whether it is the main one."""
    import ray.train
    from ray.train.torch import get_device

    own = threads(runtime, share)
    if share.gpus:
        own = replace(own, device=str(get_device()))
    return own, ray.train.get_context().get_world_rank() == 0


def train_together(attempt: Attempt) -> None:
    """Makes an attempt at a trial in as many processes as its share says.

    Each process looks for itself whether the worker's lease is lost; the first that finds it so ends, and Ray Train
    then ends the others.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.tune.integration.ray_train import TuneReportCallback

    # Annotated by Ray as a callback of its old Train.
    tune_callback: Callable[[], Any] = TuneReportCallback
    share, storage = attempt.share, attempt.directory / "ray"

    def process() -> None:
        import ray.train

        runtime, main = own_part(attempt.work.runtime, share)
        if not train(attempt, runtime, ray.train.report, main):
            # The others may wait for this one.
            raise UserError("this trial failed")

    try:
        run_together(process, share, attempt.key, storage, [tune_callback()])
    except TrainingFailedError:
        attempt.lease.check(now=True)
        if not (attempt.directory / FAILURE).is_file():
            raise
    finally:
        if not attempt.lease.lost:
            shutil.rmtree(storage, ignore_errors=True)

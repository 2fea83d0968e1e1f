"""A trial in several processes, which Ray Train starts and which torch's DDP holds together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from drorae.errors import UserError
from sweeps.worker.attempt import Attempt, threads, train


def train_together(attempt: Attempt) -> None:
    """Makes an attempt at a trial in as many processes as its share says.

    The processes' resources are a placement group of Ray Train's own, which Ray grants whole or not at all, and the
    Tune trial around it holds none: two such trials cannot each hold half of what both need. Each process looks for
    itself whether the worker's lease is lost; the first that finds it so ends, and Ray Train then ends the others.
    """
    # A trial waits for its turn, however long that takes.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(365 * 86400)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.tune.integration.ray_train import TuneReportCallback

    # Annotated by Ray as a callback of its old Train.
    tune_callback: Callable[[], Any] = TuneReportCallback
    share, storage = attempt.share, attempt.directory / "ray"

    def process() -> None:
        import ray.train
        from ray.train.torch import get_device

        runtime = threads(attempt.work.runtime, share)
        if share.gpus:
            runtime = replace(runtime, device=str(get_device()))
        main = ray.train.get_context().get_world_rank() == 0
        if not train(attempt, runtime, ray.train.report, main):
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
            name=attempt.key,
            storage_path=str(storage),
            # Tune tries again, and knows how often.
            failure_config=FailureConfig(max_failures=0),
            callbacks=[tune_callback()],
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError:
        attempt.lease.check(now=True)
        if not (attempt.directory / "failure.json").is_file():
            raise
    finally:
        if not attempt.lease.lost:
            shutil.rmtree(storage, ignore_errors=True)

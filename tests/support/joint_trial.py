"""A stand-in for a trial in several processes, which go step by step together and end when they are told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sleeping_trial
import torch.distributed

from drorae.config import Runtime, TrialConfig
from sweeps.folder import lease

prepare = sleeping_trial.prepare


def prepare_noted(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """The real preparation; each process leaves a line with the number of them all."""
    from drorae.runtime import distributed
    from drorae.trial.run import prepare

    with Path(runtime.cache_dir).with_name("prepared.log").open("a") as file:
        file.write(f"{distributed.rank()} of {distributed.world_size()}\n")
    return prepare(config, runtime, report)


def refuse(config: TrialConfig, runtime: Runtime, report: Callable[[dict[str, Any]], None]) -> None:
    """The second process finds something to mend, or is killed, while the first waits for it."""
    from drorae.errors import UserError
    from drorae.runtime import distributed

    report({"phase": "prepare", "note": "begun"})
    if distributed.rank() == 1:
        if config.label == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("images: there are none")
    distributed.barrier()


class Fatal:
    """What the second process dies of when it is sent what it is to do."""

    def __call__(self) -> None:
        """Does nothing."""

    def __reduce__(self) -> tuple[Callable[[], Fatal], tuple[()]]:
        return _die_in_the_second, ()


def _die_in_the_second() -> Fatal:
    import ray.train

    if ray.train.get_context().get_world_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Fatal()


def run_trial(
    config: TrialConfig, report: Callable[[dict[str, Any]], None], *, directory: Path, runtime: Runtime
) -> None:
    """Leaves a line with its process's number; reports steps until there is a file `enough`, and then the result."""
    # Its processes look for their lease more often than those of a real one: a test waits for it.
    lease.BEAT_SECONDS = 0.3
    with (directory / "processes.log").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for step in range(1, 1000):
        time.sleep(0.1)
        # All see the file at the same step.
        enough = torch.tensor(float((directory / "enough").exists()))
        torch.distributed.all_reduce(enough)
        if enough:
            break
        report({"phase": "phase2", "step": float(step), "total_steps": 1000.0, "epoch": step / 1000, "loss": 1 / step})
    if torch.distributed.get_rank() == 0:
        sleeping_trial.run_trial(config, report, directory=directory, runtime=runtime)

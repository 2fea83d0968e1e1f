"""What is made of Ray's errors about workers that died."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from sweeps.driver.deaths import DIED, NODE_DIED, OUT_OF_MEMORY, error_of, is_death, taken_for_deaths, why_died

LOW = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.\nTop 10 memory users: ...")
EXIT = "The actor is dead because its worker process has died. Worker exits with an exit code"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LOW, OUT_OF_MEMORY),
        (RayActorError(error_msg=f"OutOfMemoryError: {LOW}"), OUT_OF_MEMORY),
        (NodeDiedError("gone"), NODE_DIED),
        (RayActorError(error_msg=f"{EXIT} 1. The process receives a SIGTERM."), "(SIGTERM)"),
        (RayActorError(error_msg=f"{EXIT} 7."), "exit code 7"),
        (WorkerCrashedError(), DIED),
        (None, DIED),
        (ValueError("Traceback\nValueError: wrong"), "ValueError: wrong"),
    ],
)
def test_why_a_worker_died_is_said_in_one_line(error: BaseException | None, said: str) -> None:
    assert why_died(error).endswith(said) or said in why_died(error)
    assert "\n" not in why_died(error)


def test_what_was_raised_in_a_worker_is_no_death() -> None:
    assert is_death(LOW) and is_death(WorkerCrashedError())
    assert not is_death(RayTaskError("f", "Traceback", ValueError("wrong"))) and not is_death(ValueError())


def test_tune_takes_a_worker_that_the_memory_monitor_killed_for_a_dead_one() -> None:
    told: list[Any] = []
    bug = ValueError("a bug of Tune's")
    actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, error: told.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: told.append(error))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    with pytest.raises(RuntimeError, match="unexpected exception"):
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=LOW)
    with taken_for_deaths():
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=LOW)
        with pytest.raises(RuntimeError, match="unexpected exception"):
            RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=bug)
    assert len(told) == 2 and {why_died(error) for error in told} == {OUT_OF_MEMORY}
    with pytest.raises(RuntimeError, match="unexpected exception"):
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=LOW)


def test_a_trial_that_left_no_error_of_rays_has_none(tmp_path: Path) -> None:
    path = tmp_path / "error.pkl"
    trial = SimpleNamespace(pickled_error_file=str(path))
    assert error_of(None) is None and error_of(trial) is None
    path.write_bytes(pickle.dumps(LOW))
    assert isinstance(error_of(trial), OutOfMemoryError)

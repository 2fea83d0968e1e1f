"""Workers that die: what Ray says of why, in one line, and how Tune is made to take it for the death of one worker."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drorae.errors import last_line

_LESS = "lower --micro-batch, or run fewer at once with --max-concurrent or more --cpus-per-trial"
DIED = f"the worker process was killed without a word (SIGKILL; if again, most likely for want of memory: {_LESS})"
OUT_OF_MEMORY = f"Ray's memory monitor killed the worker process, as the machine was short of memory; {_LESS}"
NODE_DIED = "the machine that the worker process was on is lost"
_EXIT_CODE = re.compile(r"exit code (\d+)")


def why_died(error: BaseException | None) -> str:
    """Returns what Ray's error says of why a worker's process died; of one that was raised in it, the error."""
    said = str(error)
    if error is not None and not is_death(error):
        return last_line(said) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError" or "low on memory" in said:
        return OUT_OF_MEMORY
    if type(error).__name__ == "NodeDiedError" or "node has died" in said:
        return NODE_DIED
    if "SIGTERM" in said:
        return "the worker process was ended from outside (SIGTERM)"
    code = _EXIT_CODE.search(said)
    return f"the worker process left with exit code {code[1]}" if code else DIED


def is_death(error: BaseException) -> bool:
    """Returns whether Ray's error says that a worker was lost, rather than what was raised in it."""
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def error_of(tune_trial: Any) -> BaseException | None:
    """Returns what Ray said when the last attempt at a Tune trial ended; None where it said nothing."""
    # What was raised in a worker may not be loaded here, and a full disk has nothing to load.
    with contextlib.suppress(Exception):
        # The trial's own copy: what `get_pickled_error` reads gets there later.
        error: BaseException = pickle.loads(Path(tune_trial.pickled_error_file).read_bytes())
        return error
    return None


@contextlib.contextmanager
def taken_for_deaths() -> Iterator[None]:
    """Has Tune try a trial again whose worker was lost in a way that Tune does not know, while the block runs.

    Ray reports a worker that its memory monitor killed as an error of a kind of its own, which Tune takes for a bug in
    itself, and ends with all trials.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError

    names = ("_actor_task_failed", "_actor_start_failed")
    usual = {name: getattr(RayActorManager, name) for name in names}

    def translated(failed: Callable[..., None]) -> Callable[..., None]:
        def handle(self: Any, *, exception: Exception, **actor: Any) -> None:
            if is_death(exception) and not isinstance(exception, RayActorError):
                exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            failed(self, exception=exception, **actor)

        return handle

    for name in names:
        setattr(RayActorManager, name, translated(usual[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(RayActorManager, name, usual[name])

"""Several processes on one trial, started on this machine: what the main one finds, and one end for all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from drorae.errors import Notice, UserError, brief, notices_to, one_line
from drorae.redaction import redact_logs
from drorae.runtime import distributed

T = TypeVar("T")
Hear = Callable[[Any], None]

GRACE_SECONDS = 1.0
"""Where one process cannot reach another, so long it is waited for word of what became of that one."""
END_SECONDS = 5.0
"""A process that does not end when it is asked to is killed after this time."""


@dataclass(frozen=True)
class _Said:
    """What a process lets its parent know."""

    kind: str
    """told, notice, done or raised."""
    value: Any = None


def run_in_processes(work: Callable[[int, Hear], T], count: int, backend: str, hear: Hear = lambda told: None) -> T:
    """Runs `work(number, tell)` in `count` new processes of this machine, and returns what number 0 does.

    In each of them torch.distributed is set up. Where one fails or dies, or an exception such as Ctrl-C's comes to this
    process, all are ended; they also end where this process does.

    Args:
        work: a function of a module, or a partial of one. What number 0 tells is heard here, and its notices are warned
            of here; the others' are their own.
        count: number of processes.
        backend: of torch.distributed: gloo, or nccl, with GPU number N for process N.
        hear: called with what is told.

    Raises:
        UserError: one of them raised it, or was killed.
        Exception: one of them raised it.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="drorae-") as folder, contextlib.ExitStack() as stack:
        processes: dict[Connection, Any] = {}
        for number in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_process, args=(number, count, backend, str(Path(folder) / "meet"), theirs, work), daemon=True
            )
            stack.callback(ours.close)
            stack.callback(_end, process)
            process.start()
            # The pipe is closed when the process ends, and only then.
            theirs.close()
            processes[ours] = process
        # Ends them at once, not one after the other.
        stack.callback(lambda: [process.terminate() for process in processes.values()])
        found: T = _listen(processes, hear)
        return found


def _end(process: Any) -> None:
    if process.pid is None:
        return
    process.terminate()
    process.join(END_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _listen(processes: dict[Connection, Any], hear: Hear) -> Any:
    """Hears the processes until all are done; returns what the first one found."""
    numbers = {pipe: number for number, pipe in enumerate(processes)}
    waiting, found = dict(processes), {}
    while waiting:
        for pipe in _ready(waiting):
            said = _next(pipe, waiting[pipe], numbers[pipe], len(processes))
            if said.kind == "raised":
                raise _cause(said.value, waiting, numbers)
            if said.kind == "done":
                found[numbers[pipe]] = said.value
                del waiting[pipe]
            elif said.kind == "notice":
                warnings.warn(Notice(said.value), stacklevel=3)
            else:
                hear(said.value)
    return found[0]


def _ready(waiting: dict[Connection, Any], seconds: float | None = None) -> list[Connection]:
    return [pipe for pipe in wait(list(waiting), seconds) if isinstance(pipe, Connection)]


def _next(pipe: Connection, process: Any, number: int, count: int) -> _Said:
    """What a process says next; of one that died without a word, how."""
    try:
        said: _Said = pipe.recv()
    except (EOFError, OSError):
        process.join(END_SECONDS)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        remedy = (
            "see what the system says of it (memory, most often); the same command goes on from the last checkpoint"
        )
        return _Said("raised", UserError(f"process {number + 1} of {count} {how}; {remedy}"))
    return said


def _cause(error: Exception, waiting: dict[Connection, Any], numbers: dict[Connection, int]) -> Exception:
    """Why they failed: one that dies makes others fail who wait for it, and is the last to be noticed."""
    deadline = time.monotonic() + GRACE_SECONDS
    left = dict(waiting)
    while not isinstance(error, UserError) and (seconds := deadline - time.monotonic()) > 0:
        for pipe in _ready(left, seconds):
            said = _next(pipe, left[pipe], numbers[pipe], len(numbers))
            if said.kind == "raised" and isinstance(said.value, UserError):
                return said.value
            if said.kind in ("raised", "done"):
                del left[pipe]
        if not left:
            break
    return error


def _process(
    number: int, count: int, backend: str, meet: str, pipe: Connection, work: Callable[[int, Hear], Any]
) -> None:
    """One of the processes."""
    # A terminal tells all of its processes; the parent ends this one.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    redact_logs()
    lock = threading.Lock()

    def say(kind: str, value: Any) -> None:
        with lock:
            pipe.send(_Said(kind, value))

    try:
        with notices_to(lambda notice: say("notice", str(notice)) if number == 0 else None):
            _set_up(number, count, backend, meet)
            found = work(number, lambda told: say("told", told) if number == 0 else None)
        distributed.barrier()
        say("done", found if number == 0 else None)
    except Exception as error:
        say("raised", _portable(error))
    # Whoever leaves early breaks connections that others still wait on.
    threading.Event().wait()


def _set_up(number: int, count: int, backend: str, meet: str) -> None:
    import torch
    import torch.distributed as dist

    if backend == "nccl":
        torch.cuda.set_device(number)
    dist.init_process_group(
        backend, init_method=f"file://{meet}", rank=number, world_size=count, timeout=distributed.PATIENCE
    )


def _outlive_nobody() -> None:
    """Ends this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """An exception as it can be sent: itself, or its kind and its words."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    if isinstance(error, UserError):
        return UserError(one_line(error))
    return RuntimeError(f"{type(error).__name__}: {brief(error, 300)}")

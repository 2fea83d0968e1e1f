"""The batches of a phase, read ahead of the step by a thread, and cut by processes where there are some."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from drorae.data.batch import Batch, Cutter
from drorae.data.crops import CropSet
from drorae.errors import UserError, brief
from drorae.runtime.memory import keep_freed
from drorae.runtime.signals import ENDING

if TYPE_CHECKING:
    # The processes import this module, and not the encoder with it.
    from drorae.data.features import TrainingFeatures

AHEAD = 2
"""Batches that every process cuts ahead."""
_SENT = (UserError, OSError, MemoryError)
"""Errors that a process sends back as they are; torch would make many lines of them."""


class Place(NamedTuple):
    """Where in a phase a batch stands."""

    step: int
    first: int
    """Of the process's share of the step's images, the first that the batch holds."""
    size: int
    """Images of a batch; the last one of a step may hold fewer."""


class Request(NamedTuple):
    """A batch to be read."""

    place: Place
    items: np.ndarray
    epoch: int


Schedule = Callable[[Place], Iterator[Request]]
"""schedule(place): the batches of a phase from a place to its end, in order."""


class Loader:
    """Hands out the batches of a phase, the next one read while the step runs.

    They are the same to the last bit whatever the number of processes, and from whichever place they are asked for.
    Batches are best asked for in order: another place begins anew, processes included.

    Args:
        features: what is read.
        num_layers: the deepest so many blocks.
        schedule: in which order. It is asked in the thread that reads.
        workers: processes that cut the crops of online features; 0: the thread cuts them.
        device: where the batches are going; to a GPU they go from pinned memory.
    """

    def __init__(
        self, features: TrainingFeatures, num_layers: int, schedule: Schedule, workers: int, device: torch.device
    ) -> None:
        self.features, self.num_layers, self.schedule = features, num_layers, schedule
        self.workers, self.device = workers, device
        self._thread: ThreadPoolExecutor | None = None
        self._batches: Generator[tuple[Place, Batch]] | None = None
        self._next: Future[tuple[Place, Batch] | None] | None = None

    def take(self, place: Place) -> Batch:
        """Returns the batch at a place, online features encoded now.

        Raises:
            UserError: an image cannot be read any more, or a process that cuts crops has died.
            OSError, MemoryError: the machine cannot read just now.
        """
        try:
            found = self._next.result() if self._next is not None else None
            if found is None or found[0] != place:
                found = self._begin(place)
            self._next = self._submit()
        except BaseException:
            self.close()
            raise
        return self.features.finish(found[1], self.num_layers)

    def close(self) -> None:
        """Ends the thread and the processes, once the batch in hand is read; batches may be asked for again."""
        thread, batches = self._thread, self._batches
        self._thread = self._batches = self._next = None
        if thread is not None and batches is not None:
            # In its own thread: a generator cannot be closed while it runs.
            thread.submit(batches.close)
            thread.shutdown(wait=True)

    def _begin(self, place: Place) -> tuple[Place, Batch]:
        """Reads from a place on; its batch."""
        self.close()
        self._batches = self._read(place)
        self._thread = ThreadPoolExecutor(1, "loader", partial(_begin_thread, gpu_number(self.device)))
        found = self._submit().result()
        assert found is not None, "a place behind the phase's end"
        return found

    def _submit(self) -> Future[tuple[Place, Batch] | None]:
        assert self._thread is not None and self._batches is not None
        return self._thread.submit(next, self._batches, None)

    def _read(self, place: Place) -> Generator[tuple[Place, Batch]]:
        """The batches from a place on, pinned where they go to a GPU."""
        cutter = self.features.cutter
        requests = self.schedule(place)
        with contextlib.closing(
            self._cut(cutter, requests) if self.workers and cutter else self._own(requests)
        ) as all_:
            for at, batch in all_:
                yield at, batch.pinned() if self.device.type == "cuda" else batch

    def _own(self, requests: Iterator[Request]) -> Generator[tuple[Place, Batch]]:
        """The batches as this process reads them."""
        for place, items, epoch in requests:
            yield place, self.features.read(items, epoch, self.num_layers)

    def _cut(self, cutter: Cutter, requests: Iterator[Request]) -> Generator[tuple[Place, Batch]]:
        """The batches as other processes cut them."""
        # Python's own helper, started with the first process, would unblock Ctrl-C in this thread.
        resource_tracker.ensure_running()
        _leave_signals()
        # Not forked: threads and CUDA do not survive that. The generator of its own, so that starting the processes
        # draws nothing from the step's.
        loader = DataLoader[Any](
            _Cuts(cutter), batch_size=None, sampler=_Requests(requests), collate_fn=_as_it_is, num_workers=self.workers,
            prefetch_factor=AHEAD, multiprocessing_context="spawn", generator=torch.Generator(),
            worker_init_fn=partial(_begin_process, Image.MAX_IMAGE_PIXELS, os.getpid()),
        )  # fmt: skip
        batches: Any = None
        try:
            batches = iter(loader)
            while (received := _receive(batches)) is not None:
                place, found = received
                if isinstance(found, Exception):
                    raise found
                yield Place(*place), found
        finally:
            if batches is not None:
                batches._shutdown_workers()


def _receive(batches: Iterator[Any]) -> Any:
    """The next of what other processes send; None: there is no more.

    Raises:
        UserError: one of them has died.
    """
    try:
        return next(batches, None)
    except (RuntimeError, EOFError, OSError) as error:
        # Before torch finds out, there may be nobody left to hand over what was announced: an error of the connection.
        if isinstance(error, RuntimeError) and ("DataLoader worker" not in str(error) or "Original" in str(error)):
            raise
        raise UserError(
            f"images: a process that cuts crops has died ({brief(error, 120)}), of want of memory as a rule, or of "
            "shared memory (/dev/shm); lower --loader-workers, 0 for none, or give the trial more memory"
        ) from None


class _Requests:
    """What a DataLoader takes for a sampler: requests, once."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self._requests


class _Cuts(Dataset[Any]):
    """What a DataLoader takes for a data set: crops by request, or the error that came in their place."""

    def __init__(self, cutter: Cutter) -> None:
        images = cutter.images
        # The processes are as many as were asked for; threads of theirs would take cores of others.
        self._cutter = Cutter(images.one_by_one(), cutter.views) if isinstance(images, CropSet) else cutter

    def __getitem__(self, request: Request) -> tuple[tuple[int, ...], Batch | Exception]:
        place, items, epoch = request
        try:
            return tuple(place), self._cutter(items, epoch)
        except _SENT as error:
            return tuple(place), error


def _as_it_is(found: Any) -> Any:
    return found


def _leave_signals() -> None:
    """Ctrl-C and a closed window are the main thread's; the processes that this one starts inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(ENDING) - {signal.SIGTERM})


def gpu_number(device: torch.device) -> int | None:
    """Returns the number of the GPU that the asking thread means by a device; None where it is none."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _begin_thread(gpu: int | None) -> None:
    _leave_signals()
    if gpu is not None:
        # Each thread has a current GPU of its own, at first 0, and pinned memory would open that one.
        torch.cuda.set_device(gpu)


def _begin_process(max_pixels: int | None, parent: int, number: int) -> None:
    """A process that cuts has torch's one thread already; Pillow's limit, and its silence, are the parent's."""
    if os.getppid() != parent:
        # It died while this one started; torch would take whoever has inherited it for the parent, and never leave.
        os._exit(1)
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore")
    keep_freed()

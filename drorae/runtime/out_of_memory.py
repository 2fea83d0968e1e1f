"""Running out of memory: told from other errors, and answered with fewer images at once."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from drorae.errors import Notice, UserError, brief
from drorae.runtime import distributed

T = TypeVar("T")

REMEDY = "give each trial more memory (fewer at once), or use a smaller model or --activation-checkpointing"
_SIGNS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED")
"""What the CPU's allocator and CUDA's libraries say in errors of no type of their own."""


def out_of_memory(error: BaseException) -> bool:
    """Says whether an exception means that memory ran out, on the CPU or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


class ElsewhereError(Exception):
    """Another process on the trial has run out of memory: the attempt is given up in all of them."""


def meet() -> None:
    """Goes on when all processes have come so far in their attempts; to be called before they exchange anything.

    Only within the work of a `retry_smaller` that is `together`. One process meets nobody.

    Raises:
        ElsewhereError: one of them has run out of memory.
    """
    if distributed.any_of(False):
        raise ElsewhereError


def retry_smaller(
    size: int, work: Callable[[int], T], what: str, same: str = "", together: bool = False
) -> tuple[T, int]:
    """Returns work(size), with half as many images at once whenever memory runs out, and the size that fitted.

    Args:
        size: images at once, 1 or more.
        work: called anew with each size; must leave nothing behind where it raises.
        what: names the work in messages.
        same: what a reader of the `Notice` should know of the smaller size.
        together: whether all processes on the trial do the work, each its part of it. Memory that one of them lacks
            makes all try again: a process comes to the next meeting, in the work (`meet`) or after it, whether it got
            so far or ran out of memory on the way, and there they learn of each other. As the work exchanges nothing
            but after a meeting, none waits for what another cannot send any more.

    Raises:
        UserError: not even one image at a time fits.
    """
    while True:
        reason = ""
        try:
            return _attempt(size, work, together), size
        except ElsewhereError:
            pass
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = brief(error, 100)
        # Not before the handler has ended: until then the traceback holds the failed attempt's tensors.
        release()
        if reason and together:
            distributed.any_of(True)
        reason = reason or "in another of the processes"
        if size == 1:
            raise UserError(f"{what}: out of memory with one image at a time ({reason}); {REMEDY}")
        size //= 2
        if not together or distributed.is_main():
            more = f"; {same}" if same else ""
            warnings.warn(f"{what}: out of memory with {2 * size} images at once, goes on with {size}{more}", Notice, 3)


def _attempt(size: int, work: Callable[[int], T], together: bool) -> T:
    """Makes an attempt, whose outcome nobody holds where another process failed."""
    result = work(size)
    if together:
        meet()
    return result


@contextlib.contextmanager
def as_user_error(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Makes running out of memory a UserError, where fewer images at once are no help or cannot be had."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{what}: out of memory ({brief(error, 100)}); {remedy}") from None


def release() -> None:
    """Gives back, to the device too, what nothing refers to any more."""
    gc.collect()
    # Does nothing where CUDA is not in use.
    torch.cuda.empty_cache()

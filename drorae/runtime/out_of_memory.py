"""Running out of memory: told from other errors, and answered with fewer images at once."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from drorae.errors import Notice, UserError, brief

T = TypeVar("T")

REMEDY = "give each trial more memory (fewer at once), or use a smaller model or --activation-checkpointing"
_SIGNS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED")
"""What the CPU's allocator and CUDA's libraries say in errors of no type of their own."""


def out_of_memory(error: BaseException) -> bool:
    """Says whether an exception means that memory ran out, on the CPU or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def retry_smaller(size: int, work: Callable[[int], T], what: str, same: str = "") -> tuple[T, int]:
    """Returns work(size), with half as many images at once whenever memory runs out, and the size that fitted.

    Args:
        size: images at once, 1 or more.
        work: called anew with each size; must leave nothing behind where it raises.
        what: names the work in messages.
        same: what a reader of the `Notice` should know of the smaller size.

    Raises:
        UserError: not even one image at a time fits.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = brief(error, 100)
        # Not before the handler has ended: until then the traceback holds the failed attempt's tensors.
        release()
        if size == 1:
            raise UserError(f"{what}: out of memory with one image at a time ({reason}); {REMEDY}")
        size //= 2
        more = f"; {same}" if same else ""
        warnings.warn(f"{what}: out of memory with {2 * size} images at once, goes on with {size}{more}", Notice, 3)


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

"""Memory that a process frees, kept for what it allocates next."""

from __future__ import annotations

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls its parameters: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD."""
KEPT_BYTES = 2**28
"""Freed memory that is kept, at most."""
LARGEST_BYTES = 2**28, 2**25
"""The largest piece that is kept at all; the second where a version of glibc takes no more."""


def keep_freed() -> None:
    """Has the C library keep what this process frees, up to `KEPT_BYTES`, instead of handing it back.

    For processes that allocate pieces of megabytes again and again, such as pictures or activations: every page that
    was handed back is zeroed by the kernel when it is touched again, which takes two fifths of the time of decoding and
    cutting a photograph of 1500 x 1200 px, and 4 to 6% of the quickstart's steps. Does nothing where the C library has
    no such setting.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_BYTES)

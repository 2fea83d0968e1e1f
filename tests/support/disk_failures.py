"""What a disk or a memory that fails raises."""

from __future__ import annotations

import errno
import os

import torch

FAILURES = [OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES)]
FAILURES += [MemoryError("no room"), torch.OutOfMemoryError("CUDA out of memory")]  # type: ignore[list-item]

"""Rows of features in a file, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK = 4096
"""Rows that are read at once where all of them are gone through."""


class Rows:
    """float32 [n, dim] in a file. Only what was asked for is in memory.

    A memory map would do, but every page that was read stays in the process's memory as long as the system has room,
    0.8 GB after a look at 50,000 images' features and their originals', and counts against a container's limit.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], offset: int = 0) -> None:
        self._file, self.shape, self._offset = file, shape, offset

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Opens a .npy file that `save` wrote."""
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        n, dim = found.shape
        return cls(path.open("rb"), (n, dim), found.offset)

    def save(self, path: Path) -> None:
        """Writes a .npy file."""
        with path.open("wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for part in blocks(len(self)):
                stream.write(self[part].data)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Reads the chosen rows, float32 [m, dim]: a slice, or indices in any order.

        Raises:
            EOFError: the file is shorter than it was.
        """
        index = np.arange(len(self))[chosen]
        found = np.empty((len(index), self.shape[1]), np.float32)
        starts = np.flatnonzero(np.diff(index, prepend=-2) != 1)
        for start, run in zip(starts, np.split(found, starts[1:]), strict=False):
            self._file.seek(self._offset + int(index[start]) * found.itemsize * self.shape[1])
            if self._file.readinto(run.reshape(-1).view(np.uint8).data) != run.nbytes:  # type: ignore[attr-defined]
                raise EOFError("a file of features ends early")
        return found


def blocks(n: int) -> Iterator[slice]:
    """Cuts n rows into slices of `BLOCK`, the last one shorter."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))

"""The features of a set of images, in order: streamed through memory, kept on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from drorae.metrics.frechet import FeatureStatistics
from drorae.storage.sealed import read_sealed, write_sealed


class FeatureSample:
    """Statistics in memory, and the features themselves as float32 rows of a file.

    The kernel distance and the sampling error go through the features again. The file takes 4 n dim bytes (0.4 GB
    for 50,000 images of Inception's 2048 features) and memory stays the same for any number of images. It lies in
    the folder for temporary files, `TMPDIR`, and vanishes with the object.
    """

    def __init__(self, dim: int) -> None:
        self.statistics = FeatureStatistics(dim)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the object lives)
        self._saved: np.ndarray | None = None

    def update(self, features: Tensor) -> None:
        """Takes in features [B, dim], any device and type; they are rounded to float32.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        rows = features.detach().float().cpu()
        self.statistics.update(rows)
        self._file.write(np.ascontiguousarray(rows.numpy()).data)

    @property
    def features(self) -> np.ndarray:
        """float32 [n, dim], a read-only memory map."""
        if self._saved is not None:
            return self._saved
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(self.statistics.n, self.statistics.dim))

    def save(self, path: Path) -> None:
        """Writes the statistics to `path` (.npz) and the features beside it (.npy), each beside its SHA-256."""
        write_sealed(path.with_suffix(".npy"), lambda temporary: np.save(temporary, self.features))
        write_sealed(path, self.statistics.save)

    @classmethod
    def load(cls, path: Path) -> FeatureSample | None:
        """Reads what `save` wrote, the features as a memory map; None where one of the files is missing or damaged."""
        statistics = read_sealed(path, FeatureStatistics.load)
        rows = read_sealed(path.with_suffix(".npy"), lambda file: np.load(file, mmap_mode="r", allow_pickle=False))
        if statistics is None or rows is None:
            return None
        sample = cls(statistics.dim)
        sample.statistics = statistics
        sample._saved = rows
        return sample

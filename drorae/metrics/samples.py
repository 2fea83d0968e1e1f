"""The features of a set of images, in order: streamed through memory, kept on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drorae.metrics.frechet import FeatureStatistics
from drorae.metrics.rows import Rows
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
        self._saved: Rows | None = None

    def update(self, features: Tensor) -> None:
        """Takes in features [B, dim], any device and type; they are rounded to float32.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        rows = features.detach().float().cpu()
        self.statistics.update(rows)
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(rows.numpy()).data)

    @property
    def features(self) -> Rows:
        """float32 [n, dim], read from the file as they are asked for."""
        if self._saved is not None:
            return self._saved
        return Rows(self._file, (self.statistics.n, self.statistics.dim))

    def batches(self, sizes: Iterable[int]) -> Iterator[Tensor]:
        """Yields the features again, float32 [B, dim], so many rows at a time."""
        start = 0
        for size in sizes:
            yield torch.from_numpy(self.features[start : start + size])
            start += size

    def save(self, path: Path) -> None:
        """Writes the statistics to `path` (.npz) and the features beside it (.npy), each beside its SHA-256."""
        write_sealed(path.with_suffix(".npy"), self.features.save)
        write_sealed(path, self.statistics.save)

    @classmethod
    def load(cls, path: Path) -> FeatureSample | None:
        """Reads what `save` wrote, the features where they lie; None where one of the files is missing or damaged."""
        statistics = read_sealed(path, FeatureStatistics.load)
        rows = read_sealed(path.with_suffix(".npy"), Rows.load)
        if statistics is None or rows is None:
            return None
        sample = cls(statistics.dim)
        sample.statistics = statistics
        sample._saved = rows
        return sample

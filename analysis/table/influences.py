"""What every evaluation image does to a metric, as the trials beside a sweep's table keep it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.table.columns import texts
from drorae.metrics.registry import INFLUENCE
from drorae.trial.folder import PER_IMAGE

FOLDER = "folder"
"""Key, in a table's `attrs`, of the folder that it lies in."""


def image_influences(used: pd.DataFrame, y: str) -> np.ndarray | None:
    """Returns by how much every image moves each run's value, times the number of images, shape (runs, images).

    A row sums to zero. Of a mean over images it is the image's value less the mean, of a Frechet distance the influence
    that its trial wrote (`drorae.metrics.frechet`). None unless all rows have their trial's file beside the table, with
    this metric, of the same images.
    """
    place = used.attrs.get(FOLDER)
    hashes = texts(used, "config_hash")
    if place is None or not all(re.fullmatch(r"\w+", name) for name in hashes):
        return None
    rows = [_of_trial(Path(place), name, y) for name in hashes]
    if any(row is None for row in rows) or len({len(row) for row in rows if row is not None}) != 1:
        return None
    found = np.array(rows, dtype=float)
    return found - found.mean(axis=1, keepdims=True) if found.shape[1] > 1 and np.isfinite(found).all() else None


def _of_trial(place: Path, key: str, y: str) -> np.ndarray | None:
    for path in place.glob(f"*/{key}/{PER_IMAGE}"):
        try:
            with np.load(path) as arrays:
                name = next((name for name in (f"{y}{INFLUENCE}", y) if name in arrays), None)
                return None if name is None else np.asarray(arrays[name], dtype=float).ravel()
        except (OSError, ValueError, zipfile.BadZipFile):
            return None
    return None


def image_covariance(influences: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Covariance, over other sets of as many images, of the means of configurations, shape (configurations, ...).

    Paired: runs measured on the same images err together, and a difference of two errs by what is not common.

    Args:
        influences: as `image_influences` returns them.
        groups: the number of every run's configuration, each of 0 .. configurations - 1.
    """
    images = influences.shape[1]
    means = np.array([influences[groups == k].mean(axis=0) for k in range(int(groups.max()) + 1)])
    return np.asarray(means @ means.T / (images * (images - 1)))

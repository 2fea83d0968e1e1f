"""What every image does to a metric is read from the trials beside a table, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.table.influences import FOLDER, image_covariance, image_influences
from drorae.trial.folder import PER_IMAGE


def written(folder: Path, **arrays: np.ndarray) -> pd.DataFrame:
    for key in ("aa", "bb"):
        (folder / "trials" / key).mkdir(parents=True)
        np.savez(folder / "trials" / key / PER_IMAGE, **arrays)
    frame = pd.DataFrame({"config_hash": ["aa", "bb"]})
    frame.attrs[FOLDER] = str(folder)
    return frame


def test_means_and_distances_have_influences(tmp_path: Path) -> None:
    frame = written(tmp_path, psnr=np.array([1.0, 2, 6]), rfd_dinov2_influence=np.array([-1.0, 0, 1]))
    means, distances = image_influences(frame, "psnr"), image_influences(frame, "rfd_dinov2")
    assert means is not None and means.tolist() == [[-2, -1, 3]] * 2
    assert distances is not None and distances.tolist() == [[-1, 0, 1]] * 2
    assert image_influences(frame, "ssim") is None
    # The standard error of a mean; what two runs share is not in their difference.
    covariance = image_covariance(means, np.array([0, 1]))
    assert covariance == pytest.approx(np.full((2, 2), np.var([1, 2, 6], ddof=1) / 3))


def test_a_missing_damaged_or_shorter_file_leaves_all_unknown(tmp_path: Path) -> None:
    frame = written(tmp_path, psnr=np.array([1.0, 2, 6]))
    path = tmp_path / "trials" / "bb" / PER_IMAGE
    np.savez(path, psnr=np.array([1.0, 2]))
    assert image_influences(frame, "psnr") is None
    path.write_bytes(b"PK")
    assert image_influences(frame, "psnr") is None
    path.unlink()
    assert image_influences(frame, "psnr") is None
    assert image_influences(frame.assign(config_hash=["../aa", "*"]), "psnr") is None
    assert image_influences(frame.drop(columns="config_hash"), "psnr") is None

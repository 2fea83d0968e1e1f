"""Rows of a file: what is asked for, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drorae.metrics import rows
from drorae.metrics.rows import Rows, blocks

CHOICES = [
    slice(None),
    slice(3, 9),
    slice(0, 0),
    slice(5, 500),
    slice(None, None, 7),
    np.array([0, 1, 2, 9, 10, 40]),
    np.array([40, 3, 3, 2, 0]),
    np.array([], np.int64),
]


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_reads_what_an_array_would_give(tmp_path: Path, chosen: slice | np.ndarray) -> None:
    values = np.random.default_rng(0).standard_normal((41, 6)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    found = Rows.load(tmp_path / "values.npy")
    assert len(found) == 41 and found.shape == (41, 6)
    np.testing.assert_array_equal(found[chosen], values[chosen])


@pytest.mark.parametrize("n", [0, 1, 10, 11])
def test_is_written_in_blocks_as_numpy_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(rows, "BLOCK", 5)
    values = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    if n:
        Rows.load(tmp_path / "values.npy").save(tmp_path / "again.npy")
        assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "values.npy").read_bytes()
    parts = list(blocks(n))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    assert all(part.stop - part.start <= 5 for part in parts)


def test_a_file_that_was_cut_is_said(tmp_path: Path) -> None:
    path = tmp_path / "values.npy"
    np.save(path, np.zeros((50, 4), np.float32))
    found = Rows.load(path)
    with path.open("r+b") as stream:
        stream.truncate(300)
    with pytest.raises(EOFError, match="ends early"):
        found[:]

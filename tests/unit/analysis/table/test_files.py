"""Tables of runs: what is read as the same table, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tables import trials

from analysis.table.files import read_table
from analysis.table.selection import select
from drorae.errors import UserError


def test_csv_and_parquet_agree_and_hashes_stay_text(tmp_path: Path) -> None:
    frame = trials(config_hash=["12345678e901", *[f"00{i}" for i in range(5)]])
    frame.to_csv(tmp_path / "trials.csv", index=False)
    frame.to_parquet(tmp_path / "trials.parquet")
    from_csv, from_parquet = read_table(tmp_path / "trials.csv"), read_table(tmp_path / "trials.parquet")
    assert list(from_csv["config_hash"]) == list(frame["config_hash"])
    np.testing.assert_array_equal(
        select(from_csv, "params", "psnr").x, select(from_parquet, "capacity", "psnr").used["fusion_params"]
    )


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("a,b\n")
    (tmp_path / "noise.parquet").write_bytes(b"\x00\x01")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    (tmp_path / "notes.txt").write_text("a")
    for name in ("none.csv", "empty.csv", "head.csv", "noise.parquet", "binary.csv", "notes.txt", "."):
        with pytest.raises(UserError, match="expected") as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)

"""Tables of runs: what is read as the same table, and which files are refused."""

from __future__ import annotations

import gzip
import io
import sys
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


TEXT = "params,name,rfid\n100000,é,0.9\n300000,b,0.8\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TEXT.encode("utf-8-sig")),
        ("t.csv", TEXT.encode("utf-16")),
        ("t.csv", TEXT.encode("utf-16-le")),
        ("t.csv", TEXT.encode("latin-1")),
        ("t.csv", b"# made by hand\n# twice\n" + TEXT.encode() + b"# the end\n"),
        ("t.csv", b"sep=;\n" + TEXT.replace(",", ";").encode()),
        ("t.csv", TEXT.replace(",", ";").encode()),
        ("t.csv", TEXT.replace(",", "\t").encode()),
        ("t.tsv", TEXT.replace(",", "\t").encode()),
        ("t.TSV", TEXT.replace(",", "\t").replace("\n", "\r\n").encode()),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("t.tsv.gz", gzip.compress(TEXT.replace(",", "\t").encode("utf-16"), mtime=0)),
        ("t.jsonl", '{"params":100000,"name":"é","rfid":0.9}\n{"params":300000,"name":"b","rfid":0.8}\n'.encode()),
    ],
)
@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_table_is_read_in_any_dress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, from_stdin: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    frame = read_table("-" if from_stdin else tmp_path / name)
    assert list(frame.columns) == ["params", "name", "rfid"]
    assert [list(row) for row in frame.to_numpy()] == [[100000, "é", 0.9], [300000, "b", 0.8]]


def test_parquet_comes_by_standard_input_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials().to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "t.parquet").read_bytes())))
    assert len(read_table("-")) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK\x03\x04", "pip install openpyxl"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-6], "not readable as gzip"),
        ("t.csv", b"# params,rfid\n1,2\n3,4\n", "expected the columns' names there, not in a comment"),
        ("t.csv", b"# one\na,b\n1,2,3\n", "line 3 has 3 cells under 2"),
        ("t.csv", b"a,a\n1,2\n", "two columns are called a"),
        ("t.jsonl", b"{'a': 1}\n", "not readable as a table"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    # As where pandas' reader of xlsx is not installed.
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_run_s_hash_in_an_export_stays_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Run ID,params,rfid\n12345678e901,1,2\n00123,2,3\n")
    assert list(read_table(tmp_path / "t.csv")["run_id"]) == ["12345678e901", "00123"]

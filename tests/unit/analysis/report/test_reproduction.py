"""Published numbers beside measured ones."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from analysis.report.reproduction import Reproduction, reproduce

PUBLISHED = {"a": {"rFID": 0.5, "loss": 1.0}, "b": {"rFID": 0.4, "loss": 2.0}, "c": {"rFID": 0.3}}
ROWS = {name: (f"{name}0", f"{name}1", f"{name}2") for name in PUBLISHED}


def made(values: dict[str, list[float]], **more: list[float]) -> Reproduction:
    hashes = [key for name in values for key in ROWS[name]]
    frame = pd.DataFrame(
        {"config_hash": hashes, "rfd": [value for found in values.values() for value in found], **more}
    )
    return reproduce(frame, ROWS, PUBLISHED, {"rFID": "rfd", "loss": ""}, {})


def test_a_table_has_what_is_published_and_what_was_measured() -> None:
    found = made({"a": [10.0, 11.0, 12.0], "b": [8.0], "c": []} | {"b": [8.0, 8.5, 9.0], "c": [7.0, 7.0, 7.3]})
    header, rows = found.table()
    assert header == ["row", "rFID (paper)", "rfd", "loss (paper)"]
    assert rows[0] == ["a", "0.5", "11 ± 0.58", "1"] and rows[2][3] == "-"
    frame = found.frame()
    assert list(frame["measured"][frame["row"] == "b"].dropna()) == [8.0, 8.5, 9.0]


def test_what_an_earlier_phase_measured_is_read_from_its_own_column() -> None:
    frame = pd.DataFrame({"config_hash": ["x"], "psnr": [3.0], "phase2.psnr": [2.0], "baseline_psnr": [1.0]})
    published = {name: {"PSNR": value} for name, value in (("one", 10.0), ("two", 20.0), ("three", 30.0))}
    prefixes = {"one": "baseline_", "two": "phase2.", "three": ""}
    found = reproduce(frame, {name: ["x"] for name in published}, published, {"PSNR": "psnr"}, prefixes)
    assert [cells["PSNR"].measured for cells in found.rows.values()] == [(1.0,), (2.0,), (3.0,)]
    assert found.orders()[0].startswith("PSNR by psnr: 3 of 3 pairs in the published order (one seed")


def test_orders_are_told_only_as_far_as_seeds_tell_them() -> None:
    """a is clearly ahead of b, against the paper; b and c cannot be told apart."""
    values = {"a": [5.0, 5.01, 5.02], "b": [9.0, 9.01, 9.02], "c": [6.0, 12.5, 9.0]}
    lines = made(values).orders()
    assert lines[0].startswith("rFID by rfd: 0 of 3 pairs in the published order")
    assert "told apart by 3 seeds: 1, of these against the paper: 1" in lines[0]
    tau = stats.kendalltau([0.5, 0.4, 0.3], [sum(found) / 3 for found in values.values()])
    assert lines[0].endswith(f"Kendall's tau {tau.statistic:.2f} (p {tau.pvalue:.2g})")
    assert len(lines) == 2 and "differs: a 5.01" in lines[1] and "b 9.01" in lines[1]


def test_missing_trials_are_gaps() -> None:
    found = reproduce(pd.DataFrame({"config_hash": ["a0"], "rfd": [1.0]}), ROWS, PUBLISHED, {"rFID": "rfd"}, {})
    assert found.rows["a"]["rFID"].measured == (1.0,) and found.rows["b"]["rFID"].mean is None
    assert found.table()[1][1][2] == "-" and found.orders() == []


@pytest.mark.parametrize("seeds", [2, 3])
def test_rows_that_never_vary_are_told_apart(seeds: int) -> None:
    values = {name: [value] * seeds for name, value in (("a", 3.0), ("b", 2.0), ("c", 1.0))}
    rows = {name: keys[:seeds] for name, keys in ROWS.items()}
    hashes = [key for keys in rows.values() for key in keys]
    frame = pd.DataFrame({"config_hash": hashes, "rfd": [value for found in values.values() for value in found]})
    found = reproduce(frame, rows, PUBLISHED, {"rFID": "rfd"}, {})
    assert (
        f"3 of 3 pairs in the published order; told apart by {seeds} seeds: 3, of these against the paper: 0"
        in found.orders()[0]
    )

"""Numbers as people and tools write them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.table.cells import check_commas, floats, suffixed
from analysis.table.columns import arrange, bad_cell
from analysis.table.selection import select
from drorae.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.3M", 1.3e6), ("1.3 M", 1.3e6), ("300K", 3e5), ("300k", 3e5), ("2B", 2e9), ("1,300,000", 1.3e6),
        ("1 300 000", 1.3e6), ("1\u202f300\u00a0000", np.nan), ("1\u00a0300\u00a0000", 1.3e6), ("1'300'000", 1.3e6),
        ("1_300_000", 1.3e6), ("1,300.5", 1300.5), ("-1,300,000", -1.3e6), ("1,300.5K", 1300500.0), (" 2e3 ", 2000.0),
        ("1e400", np.inf), ("-1e400", -np.inf), ("1.7976931348623157e308", np.inf), ("1e21", 1e21), ("1.3x", np.nan),
        ("M", np.nan), ("12,34", np.nan), ("1,30,000", np.nan), ("2026-01-02", np.nan), ("", np.nan),
        (10**21, 1e21), (10**400, np.inf), (True, 1.0), (None, np.nan),
    ],
)  # fmt: skip
def test_a_cell_is_read_as_what_it_is(text: object, value: float) -> None:
    np.testing.assert_equal(floats(pd.Series([text], dtype=object))[0], value)


@pytest.mark.parametrize("cells", [["2,138", "3,421"], ["0,539", "0,510"], ["1,300", "1,300,000", "12,5"]])
def test_commas_that_may_be_decimal_are_refused(cells: list[str]) -> None:
    with pytest.raises(UserError, match="may be a decimal comma or one between thousands"):
        check_commas(pd.Series(cells, name="rfid"))
    check_commas(pd.Series(["1,300", "1,300,000"], name="rfid"))


SIZES = [1e5, 3e5, 1e6, 3e6, 1e7, 3e7]
RFID = [0.9, 0.86, 0.79, 0.76, 0.7, 0.65]


@pytest.mark.parametrize(
    "cells",
    [["100K", "300K", "1M", "3M", "10M", "30M"], ["100,000", "300,000", "1,000,000", "3,000,000", "10,000,000", 3e7],
     ["100000", "300 000", "1 000 000", "3000K", "10M", "0.03B"]],
)  # fmt: skip
def test_no_row_is_lost_for_how_its_size_is_written(cells: list[object]) -> None:
    plain = analyse(pd.DataFrame({"params": SIZES, "rfid": RFID}), "params", "rfid").line
    found = analyse(pd.DataFrame({"params": cells, "rfid": RFID}), "params", "rfid").line
    assert found.n == 6 and found.slope_ci95 == pytest.approx(plain.slope_ci95)


def test_infinities_are_named_and_units_are_not_counted_twice() -> None:
    assert bad_cell("1e400") == "is 1e400, not finite" and "not finite" in bad_cell(1.797e308)
    frame = pd.DataFrame({"params": SIZES, "rfid": [*RFID[:4], 1.7976931348623157e308, "1e400"]})
    reasons = [reason for _, reason in select(frame, "params", "rfid").excluded]
    assert len(reasons) == 2 and all("not finite" in reason for reason in reasons)
    with pytest.raises(UserError, match="says its unit itself"):
        arrange(pd.DataFrame({"params": ["1.3M"]}), units={"params": "M"})
    assert suffixed(pd.Series(["x", "2K"])) == "2K"


@pytest.mark.parametrize("whole", [True, False])
def test_huge_sizes_are_fitted_without_a_warning(whole: bool) -> None:
    sizes = [int(size) * 10**18 if whole else size * 1e18 for size in SIZES]
    frame = pd.DataFrame({"params": sizes, "rfid": RFID, "eval_images": 10**21 if whole else 1e21})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(frame, "params", "rfid")
        assert found.line.slope == pytest.approx(analyse(frame.assign(params=SIZES), "params", "rfid").line.slope)
        assert found.cautions and found.verdicts

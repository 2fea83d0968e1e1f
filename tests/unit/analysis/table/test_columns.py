"""The columns of a table: their aliases, roles and units, and rows kept by their values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables import trials

from analysis.table.cells import floats
from analysis.table.columns import arrange, bad_cell, find_column, numbers, texts
from analysis.table.selection import select
from drorae.errors import UserError


def test_aliases_prefer_the_column_of_that_name() -> None:
    assert select(trials(), "params", "psnr").x_column == "fusion_params"
    assert select(trials(fusion_params_paper=range(1, 7)), "params", "psnr").x_column == "fusion_params_paper"
    assert select(trials(params=range(1, 7)), "params", "psnr").x_column == "params"
    assert select(trials(), "capacity", "psnr").x_column == "expert_hidden_dim"


def test_roles_units_and_conditions() -> None:
    frame = trials(rep=[0, 1, 0, 1, 0, 1], millions=[0.1, 0.2, 0.4, 0.8, 1.6, 3.2], design=["a"] * 5 + ["b"])
    roles = {"seed": "rep", "variant": "design"}
    ready = arrange(frame, ["variant=a", "capacity=8,16.0,32,64"], roles, {"millions": "M"})
    assert list(ready["seed"]) == [0, 1, 0, 1]
    np.testing.assert_allclose(ready["millions"], ready["fusion_params"])
    assert ready.attrs["where"] == ["variant=a (5 of 6 rows)", "capacity=8,16.0,32,64 (4 of 5 rows)"]
    late = arrange(frame, ["capacity=128,256"])
    assert select(late, "params", "psnr").labels == ("row 5 (hash4)", "row 6 (hash5)"), "rows keep their numbers"
    assert "rep" in frame.columns, "the table given is left as it was"


def test_a_column_that_is_not_there_is_named_with_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"pnsr: no such column; did you mean psnr\? columns: config_hash"):
        find_column(trials(), "pnsr")
    assert find_column(trials(), "capacity") == "expert_hidden_dim"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": {"colour": "psnr"}}, "no such role; roles: id, seed"),
        ({"roles": {"n": "psnr"}}, "has a column eval_images already"),
        ({"units": {"psnr": "dB"}}, "units psnr=dB: no such unit; units: 1, K, M"),
        ({"where": ["capacity"]}, "expected COLUMN=VALUE"),
        ({"where": ["capacity=9"]}, "no row of 6 matches; expert_hidden_dim is 8, 16, 32, 64, 128, 256"),
    ],
)
def test_what_cannot_be_arranged_is_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        arrange(trials(), **arguments)
    assert "\n" not in str(caught.value)


def test_cells_that_are_no_numbers_are_told_apart() -> None:
    cells = pd.Series(["1.5", " 2e3 ", "n/a", None, "inf"])
    np.testing.assert_array_equal(floats(cells), [1.5, 2000, np.nan, np.nan, np.inf])
    assert [bad_cell(value) for value in (None, "", "nan", "-inf", "n/a")] == [
        "is missing", "is missing", "is missing", "is -inf, not finite", "is 'n/a', not a number",
    ]  # fmt: skip
    with pytest.raises(UserError, match="'20,1' may be a decimal comma.*write decimals with a point"):
        numbers(pd.DataFrame({"psnr": ["20,1", "20,2"]}), "psnr")


def test_text_is_stripped_and_empty_where_nothing_stands() -> None:
    frame = pd.DataFrame({"reason": [" slow ", None, 3]})
    assert texts(frame, "reason") == ["slow", "", "3"] and texts(frame, "status") == [""] * 3

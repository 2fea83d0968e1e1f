"""Sizes that can carry no law, each refused with its remedy."""

from __future__ import annotations

import numpy as np
import pytest
from tables import trials

from analysis.table.design import check_axes, check_design
from analysis.table.selection import select
from drorae.errors import UserError


@pytest.mark.parametrize(
    ("columns", "unit", "message"),
    [
        ({"fusion_params": [1e5] * 3 + [2e5] * 3}, "configuration", "two values only"),
        ({"fusion_params": range(1, 7), "seed": range(1, 7)}, "configuration", "numbers repeats"),
        ({"fusion_params": [1e5, 1e5, 2e5, 2e5, 4e5, 4e5], "seed": [0, 1] * 3, "expert_hidden_dim": 8}, "row",
         "seeds are repeats"),
        ({"fusion_params": [1e5, 1e5, 2e5, 2e5, 4e5, 4e5], "seed": [0, 1] * 3, "expert_hidden_dim": 8},
         "configuration", "3 configurations .6 runs, 0 rows left out.; a law of 2"),
        ({"psnr": 20.0}, "configuration", "20 in every run"),
    ],
)  # fmt: skip
def test_designs_that_carry_no_law(columns: dict, unit: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_design(select(trials(**columns), "params", "psnr"), unit)


def test_axes_that_repeat_each_other() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=20), rng.normal(size=20)
    check_axes({"a": one, "b": two, "c": one + 0.1 * two**2})
    with pytest.raises(UserError, match="a: collinear with b and c"):
        check_axes({"a": 3 - one, "b": two, "c": one + 2 * two})
    with pytest.raises(UserError, match="b: the axis takes two values only"):
        check_axes({"a": one, "b": np.sign(two)})

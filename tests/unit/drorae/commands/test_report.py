"""Which law a sweep's report is of."""

from __future__ import annotations

import pandas as pd
import pytest

from drorae.commands.report import choose_axis, counted, law_trials


@pytest.mark.parametrize(
    ("columns", "axis"),
    [
        ({"expert_hidden_dim": [4, 8], "num_layers": [12, 12]}, ("params", "log-linear")),
        ({"expert_hidden_dim": [4, 4], "num_layers": [6, 12]}, ("layers", "linear")),
        ({"expert_hidden_dim": [4, 8], "num_layers": [6, 12]}, ("params", "log-linear")),
        ({"fusion.num_layers": [6, 12]}, ("layers", "linear")),
        ({"params": [10, 20]}, ("params", "log-linear")),
        ({"expert_hidden_dim": [4, 4], "seed": [0, 1]}, None),
        ({}, None),
    ],
)
def test_the_law_is_of_what_varies(columns: dict[str, list[int]], axis: tuple[str, str] | None) -> None:
    assert choose_axis(pd.DataFrame(columns)) == axis


def test_trials_that_check_convergence_are_counted_apart_and_set_no_axis() -> None:
    frame = pd.DataFrame(
        {"role": ["", None, "convergence"], "fusion_params": [1, 2, 2], "config_hash": ["a", "b", "c"]}
    )
    assert list(law_trials(frame)["config_hash"]) == ["a", "b"]
    assert counted(frame) == "2 trials, and 1 that checks convergence"
    assert counted(frame.drop(columns="role")) == "3 trials"

"""The rows that a fit uses: why each other row is left out, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables import trials

from analysis.table.selection import select
from drorae.errors import UserError


def test_every_exclusion_is_named() -> None:
    frame = pd.concat([trials(), trials()], ignore_index=True)
    frame["config_hash"] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a", "k", None]
    frame["reason"] = [None, "cut by ASHA at epoch 2", *[None] * 10]
    statuses = ["pruned", "diverged", "unconverged", "failed", "running"]
    frame["status"] = ["finished", *statuses, *["finished"] * 6]
    frame.loc[6, "fusion_params"] = 0.0
    frame.loc[7, "psnr"] = np.inf
    frame.loc[8, "fusion_params"] = np.nan
    selection = select(frame, "params", "psnr")
    assert selection.labels == ("row 1 (a)", "row 11 (k)", "row 12")
    assert dict(selection.excluded) == {
        "row 2 (b)": "status pruned: cut by ASHA at epoch 2",
        "row 3 (c)": "status diverged",
        "row 4 (d)": "status unconverged",
        "row 5 (e)": "status failed",
        "row 6 (f)": "status running",
        "row 7 (g)": "fusion_params is 0, which has no logarithm",
        "row 8 (h)": "psnr is inf, not finite",
        "row 9 (i)": "fusion_params is missing",
        "row 10 (a)": "same config_hash as row 1 (a)",
    }
    assert "row 4 (d)" in select(frame, "params", "psnr", include=["unconverged"]).labels
    assert "row 7 (g)" in select(frame, "params", "psnr", log=False).labels


def test_a_generator_s_loss_is_measured_on_no_images() -> None:
    frame = pd.DataFrame({"fusion_params": [1e4, 1e5, 1e6], "eval_images": [100, 100, 200]})
    frame["generator_loss"], frame["psnr"] = [0.6, 0.5, 0.4], [20.0, 21.0, 22.0]
    found = select(frame, "params", "generator_loss")
    assert found.eval_images is None and len(found.used) == 3
    with pytest.raises(UserError, match="measured on different eval_images"):
        select(frame, "params", "psnr")


def test_copies_are_left_out_where_rows_state_their_seed() -> None:
    frame = pd.concat([trials(seed=0, config_hash=None)] * 2, ignore_index=True)
    assert dict(select(frame, "params", "psnr").excluded)["row 7"] == "a copy of row 1"
    # Without seeds two equal rows may be two runs that rounding made equal: the paper's pooled table has one such.
    assert len(select(frame.drop(columns="seed"), "params", "psnr").x) == 12
    frame["run_id"] = ["abcdefghij", *"bcdef", "abcdefghij", *"ghijk"]
    assert dict(select(frame, "params", "psnr").excluded)["row 7 (abcdefgh)"] == "same run_id as row 1 (abcdefgh)"


def test_bad_cells_are_quoted() -> None:
    frame = trials(psnr=["20.0", "n/a", "-inf", "", "21.8", "22.1"], eval_images=[1500] * 5 + [None])
    assert [reason for _, reason in select(frame, "params", "psnr").excluded] == [
        "psnr is 'n/a', not a number",
        "psnr is -inf, not finite",
        "psnr is missing",
        "eval_images is missing, and other rows have it",
    ]


def test_configurations_differ_in_more_than_seed_and_missing_cells_are_cells() -> None:
    frame = trials(fusion_params=[1e5, 1e5, 2e5, 2e5, 4e5, 4e5], expert_hidden_dim=8, seed=[0, 1] * 3, variant=None)
    chosen = select(frame, "params", "psnr")
    assert list(chosen.configurations) == [0, 0, 1, 1, 2, 2]
    frame["phase2.lr"] = [1e-3, 1e-4] * 3
    frame["seed"] = 0
    assert list(select(frame, "params", "psnr").configurations) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "x", "y", "include", "message"),
    [
        ({}, "params", "psrn", (), "psrn: no such column; did you mean psnr"),
        ({}, "layers", "psnr", (), "columns: config_hash, expert_hidden_dim"),
        ({"eval_images": [1500] * 5 + [3000]}, "params", "psnr", (), r"different eval_images, 1500 \(5 rows\), 3000"),
        ({"status": ["failed"] * 6}, "params", "psnr", (), "none of 6 rows can be used .6 x status failed"),
        ({"psnr": ["good"] * 6}, "params", "psnr", (), "no cell is a number"),
        ({}, "params", "psnr", ("broken",), "no such status; statuses: finished"),
    ],
)
def test_bad_tables(change: dict, x: str, y: str, include: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(trials(**change), x, y, include)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", ["nonfinite", "no_result"])
def test_what_ended_without_a_number_is_left_out_by_its_status(status: str) -> None:
    frame = trials()
    frame["status"] = [status, *["finished"] * (len(frame) - 1)]
    selection = select(frame, "params", "psnr")
    assert len(selection.used) == len(frame) - 1 and selection.excluded[0][1] == f"status {status}"

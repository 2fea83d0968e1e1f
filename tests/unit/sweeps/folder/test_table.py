"""A sweep's table: a row per trial, whatever became of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from done_trials import BASE, begin, finish, spec_of

from drorae.config import config_hash, override
from drorae.metrics.registry import LOOKED_THROUGH, OWN_NETWORK
from drorae.trial.folder import SKIPPED, TrialStatus, write_ending
from sweeps.checks import all_trials, roles
from sweeps.folder.table import COLUMNS, charted_metrics, marks, table_rows, trial_row, write_table
from sweeps.spec import expand


def test_every_trial_has_a_row_in_order(tmp_path: Path) -> None:
    configs = expand(spec_of("mine", (4, 8, 16)))
    finish(tmp_path, configs[0])
    write_ending(begin(tmp_path, configs[1]), TrialStatus.FAILED, "no luck, twice")
    rows = table_rows(configs, tmp_path)
    assert write_table(tmp_path / "trials.csv", rows) == {"finished": 1, "failed": 1, "missing": 1}
    table = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False, dtype=str)
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(table["config_hash"]) == [config_hash(config) for config in configs]
    assert list(table["expert_hidden_dim"]) == ["4", "8", "16"]
    assert list(table["status"]) == ["finished", "failed", "missing"]
    assert list(table["reason"]) == ["", "no luck, twice", ""]
    assert list(table["fusion_params"]) == ["4000", "", ""] and list(table["baseline_psnr"]) == ["9.0", "", ""]
    assert (
        list(table["gain_psnr_se"]) == ["0.1", "", ""] and float(table["gain_psnr"][0]) == float(table["psnr"][0]) - 9
    )
    assert (
        float(table["psnr"][0])
        == json.loads((tmp_path / config_hash(configs[0]) / "result.json").read_text())["metrics"]["psnr"]
    )


def test_what_varies_has_a_column_unless_it_has_one_already(tmp_path: Path) -> None:
    configs = [BASE, replace(override(BASE, "phase2.betas", "0.5,0.9"), seed=1)]
    rows = table_rows(configs, tmp_path)
    assert [row["phase2.betas"] for row in rows] == [",".join(map(str, BASE.phase2.betas)), "0.5,0.9"]
    assert [row["seed"] for row in rows] == [0, 1] and "fusion.variant" not in rows[0]
    assert "phase2.lr" not in rows[0]


def test_listed_layers_are_counted_and_shown(tmp_path: Path) -> None:
    configs = [BASE, override(BASE, "fusion.layers", "2,7,12"), override(BASE, "fusion.layers", "12")]
    rows = table_rows(configs, tmp_path)
    assert [row["num_layers"] for row in rows] == ["", 3, 1]
    assert [row["fusion.layers"] for row in rows] == ["auto", "2,7,12", "12"]
    assert trial_row(override(configs[1], "fusion.variant", "last"), tmp_path)["num_layers"] == 1


def test_a_result_keeps_the_hash_of_today_and_the_digest_of_its_decoder(tmp_path: Path) -> None:
    directory = finish(tmp_path, BASE)
    tree = json.loads((directory / "result.json").read_text())
    tree |= {"config_hash": "of then", "weights": {"phase1_decoder": "f" * 64}}
    (directory / "result.json").write_text(json.dumps(tree))
    row = trial_row(BASE, directory)
    assert row["config_hash"] == config_hash(BASE) and row["phase1_weights"] == "f" * 16


def test_trials_of_a_search_say_what_they_are_to_the_law(tmp_path: Path) -> None:
    configs = expand(spec_of("mine"))
    rows = table_rows(configs, tmp_path, {config_hash(configs[0]): "best fixed"})
    assert [row["tuning"] for row in rows] == ["best fixed", ""]
    assert "tuning" not in table_rows(configs, tmp_path)[0]


def test_trials_that_check_convergence_say_so(tmp_path: Path) -> None:
    spec = replace(spec_of("mine"), check_convergence=True)
    rows = table_rows(list(all_trials(spec).values()), tmp_path, roles=roles(spec))
    assert [row["role"] for row in rows] == ["", "", "convergence", "convergence"]
    assert [row["phase2.epochs"] for row in rows] == [2, 2, 4, 4]
    assert "role" not in table_rows(expand(spec), tmp_path)[0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([{"psnr": 20.0, "ssim": "", "l1": 0.1}, {"ssim": None}], ["psnr"]),
        ([{"ssim": 0.5}, {"rfd_dinov2": 0.0, "psnr": 1.0}], ["psnr", "ssim", "rfd_dinov2"]),
    ],
)
def test_charts_are_of_metrics_that_trials_have(rows: list[dict[str, object]], expected: list[str]) -> None:
    assert charted_metrics(rows) == expected


def test_image_files_that_were_left_out_have_a_column(tmp_path: Path) -> None:
    directory = finish(tmp_path, BASE)
    assert SKIPPED not in trial_row(BASE, directory)
    tree = json.loads((directory / "result.json").read_text())
    tree["provenance"] = {f"note.{SKIPPED}": "1 image files left out: a.png: truncated"}
    (directory / "result.json").write_text(json.dumps(tree))
    assert trial_row(BASE, directory)[SKIPPED] == "1 image files left out: a.png: truncated"


def test_a_row_says_which_networks_training_and_tokenizer_look_through(tmp_path: Path) -> None:
    directory = finish(tmp_path, BASE)
    row = trial_row(BASE, directory)
    assert row[LOOKED_THROUGH] == "dinov2=tokenizer effnet=training"
    assert marks([{}, row], ["psnr", "rfd_dinov2", "rfd_effnet"]) == {
        "rfd_dinov2": "in the tokenizer's own features", "rfd_effnet": "in training's features",
    }  # fmt: skip
    assert charted_metrics([row | {"rfid_inception": 1.0}])[-3:] == ["rfid_inception", "rfd_dinov2", "rfd_effnet"]
    other = override(override(BASE, "encoder.weights", "hub"), "objective.perceptual", "none")
    directory = finish(tmp_path / "other", other)
    assert LOOKED_THROUGH not in trial_row(other, directory)
    tree = json.loads((directory / "result.json").read_text())
    tree["provenance"] = {f"note.{OWN_NETWORK}": "dinov2"}
    (directory / "result.json").write_text(json.dumps(tree))
    assert trial_row(other, directory)[LOOKED_THROUGH] == "dinov2=tokenizer"

"""The paper's tables as data, and the studies that measure them again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args

import pytest

from drorae.config import PRESETS, Scale, config_hash
from drorae.models.fusion.size import paper_params
from sweeps.published import EXHIBITS, deviations, metric_of, row_configs, study
from sweeps.spec import expand

PAPER = Path(__file__).resolve().parents[3] / "results" / "paper"
SIZES = get_args(Scale)


def printed(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("item", "table", "column"), [("table8", "capacity.csv", "expert_hidden_dim"),
                                                       ("table9", "layers.csv", "num_layers")])  # fmt: skip
def test_the_scaling_tables_are_those_that_are_refitted(item: str, table: str, column: str) -> None:
    rows = printed(table)
    assert [row.published["rFID"] for row in EXHIBITS[item].rows] == [float(row["rfid"]) for row in rows]
    configs = [row_configs(EXHIBITS[item], row, "paper", (0,))[0] for row in EXHIBITS[item].rows]
    found = [getattr(config.fusion, column) or 12 for config in configs]
    assert found == [int(row[column]) for row in rows]
    sizes = [paper_params(config.fusion.num_layers or 12, 768, config.fusion.expert_hidden_dim) for config in configs]
    assert sizes == pytest.approx([float(row["params"]) for row in rows])


@pytest.mark.parametrize("at", SIZES)
@pytest.mark.parametrize("item", EXHIBITS)
def test_every_row_is_a_trial_of_its_study(item: str, at: Scale) -> None:
    exhibit = EXHIBITS[item]
    seeds = (0, 1)
    trials = {config_hash(config): config for config in expand(study(exhibit.study, at, seeds))}
    for row in exhibit.rows:
        configs = row_configs(exhibit, row, at, seeds)
        assert [config.seed for config in configs] == [0, 1]
        assert {config_hash(config) for config in configs} <= trials.keys(), row.name
    # The paper's own size is its preset, but for what the study varies.
    assert all(config.images == PRESETS[at].images for config in trials.values())


@pytest.mark.parametrize("at", SIZES)
def test_the_run_that_both_scaling_tables_have_is_one_trial(at: Scale) -> None:
    assert len(expand(study("scaling", at))) == 19
    wide, deep = EXHIBITS["table8"], EXHIBITS["table9"]
    shared = row_configs(wide, next(row for row in wide.rows if row.name == "h = 3072"), at, (0,))
    assert shared == row_configs(deep, deep.rows[-1], at, (0,))
    assert len(EXHIBITS["scaling"].rows) == 19


def test_what_is_measured_where() -> None:
    assert metric_of("rFID", "paper") == "rfid_inception" and metric_of("rFID", "smoke").startswith("rfd_")
    assert metric_of("LPIPS", "paper") == "lpips_vgg" and metric_of("LPIPS", "quickstart") == ""
    assert metric_of("gFID", "paper") == ""
    assert all(config.phase3.epochs == 0 for config in expand(study("scaling", "paper")))
    tuned = expand(study("strategy", "paper"))[1]
    assert tuned.phase3.trains == ("decoder", "encoder") and tuned.phase3.epochs == 20
    assert any("not ImageNet" in line for line in deviations("smoke")) and "not ImageNet" not in deviations("paper")[0]

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
        drawn = row_configs(exhibit, row, at, seeds, 2, drawn=True)
        assert {config.generator.epochs for config in drawn} == {2}
        with_generator = {config_hash(config) for config in expand(study(exhibit.study, at, seeds, 2))}
        assert {config_hash(config) for config in drawn} <= with_generator, row.name
        assert not with_generator & trials.keys()
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
    assert metric_of("gFID", "paper") == metric_of("DiT training loss", "smoke") == ""
    assert metric_of("gFID", "paper", 80) == "gfid_inception" and metric_of("gFID", "smoke", 1) == "gfd_effnet2"
    assert metric_of("IS with AutoGuidance", "paper", 80) == "autoguidance_1.5.is_inception"
    assert metric_of("recall", "quickstart", 1) == "recall_effnet2"
    assert metric_of("DiT training loss", "smoke", 1) == "generator_loss"
    assert metric_of("DiT loss", "smoke", 1) == metric_of("DiT loss", "smoke") == "probe_loss"
    assert all(config.phase3.epochs == 0 for config in expand(study("scaling", "paper")))
    tuned = expand(study("strategy", "paper"))[1]
    assert tuned.phase3.trains == ("decoder", "encoder") and tuned.phase3.epochs == 20
    assert any("not ImageNet" in line for line in deviations("smoke")) and "not ImageNet" not in deviations("paper")[0]


def test_generators_draw_after_the_phase_that_a_row_is_of() -> None:
    rows = EXHIBITS["table1"].rows
    configs = [row_configs(EXHIBITS["table1"], row, "smoke", (0,), 2, drawn=True)[0] for row in rows]
    assert [config.fusion.variant == "last" for config in configs] == [True, False, False]
    assert [config.phase3.epochs > 0 for config in configs] == [False, False, True]
    paper = row_configs(EXHIBITS["table1"], rows[-1], "paper", (0,), 80, drawn=True)[0].generator
    assert (paper.size, paper.training, paper.samples, paper.steps) == ("dit_dh_xl", "drorae", 50_000, 250)
    assert paper.guidance == ("none", "autoguidance=1.5")
    assert "dit_dh_xl, 80 epochs, 50,000 samples" in deviations("smoke", 2)[-1]
    assert deviations("paper") == deviations("paper", 80)[:-1]

"""`drorae reproduce`: what it lists, runs, prints and writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from drorae.commands.main import main
from drorae.config import config_hash
from sweeps.driver.run import SweepOutcome
from sweeps.published import EXHIBITS
from sweeps.spec import SweepSpec, expand


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Sweeps that are done at once: every trial has the metrics that its config gives it."""
    names: list[str] = []

    def run(spec: SweepSpec, *, root: Path, **options: Any) -> SweepOutcome:
        names.append(spec.name)
        folder = Path(root) / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for config in expand(spec):
            quality = config.fusion.expert_hidden_dim**0.5 + config.fusion.num_layers + config.seed / 10
            key = config_hash(config)
            metrics = {"rfd_effnet2": 900 - quality, "psnr": 10 + quality, "ssim": 0.5, "probe_loss": 0.9}
            row = {"config_hash": key, "variant": config.fusion.variant, "seed": config.seed, "status": "finished",
                   "expert_hidden_dim": config.fusion.expert_hidden_dim, "num_layers": config.fusion.num_layers or 12,
                   "fusion_params": 1000 * config.fusion.expert_hidden_dim * (config.fusion.num_layers or 12),
                   "eval_images": 64}  # fmt: skip
            if config.generator.epochs:
                for k, before in enumerate(["", "autoguidance_1.5."]):
                    drawn = {"gfd_effnet2": 700 + quality - k, "is_effnet2": 5.0, "precision_effnet2": 0.6,
                             "recall_effnet2": 0.5}  # fmt: skip
                    row |= {f"{before}{name}": value for name, value in drawn.items()}
                row |= {"generator_loss": 0.8 + quality / 100}
            earlier = {
                f"{before}{name}": value - 1 for name, value in metrics.items() for before in ("baseline_", "phase2.")
            }
            rows.append(row | metrics | earlier)
            place = folder / "trials" / key
            place.mkdir(parents=True, exist_ok=True)
            (place / "inspection.json").write_text(
                json.dumps({"gradient_correlation_01": 0.3, "least_logit_correlation": -0.5, "least_logit_pair": 608.0,
                            "cos_fuse_base": -0.1})
            )  # fmt: skip
            (place / "logits.png").write_bytes(b"png")
        with (folder / "trials.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return SweepOutcome(folder, folder / "trials.csv", {"finished": len(rows)}, "run", "sqlite://")

    monkeypatch.setattr("sweeps.driver.run.run_sweep", run)
    monkeypatch.chdir(tmp_path)
    return names


def test_without_an_item_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [item["item"] for item in tree["items"]] == list(EXHIBITS)


def test_an_unknown_item_or_size_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table2"]) == 2
    assert "table2" in capsys.readouterr().err
    assert main(["reproduce", "table3", "--at", "imagenet"]) == 2
    assert main(["reproduce", "table3", "--seeds", "1", "1"]) == 2


def test_a_dry_run_lists_the_trials(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "scaling", "--at", "paper", "--dry-run", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert len(tree["trials"]) == 19 and tree["measured_after"] == ["phase 2"] and trained == []


def test_a_table_stands_beside_the_published_one(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "table3", "--at", "smoke", "--seeds", "0", "1", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert trained == ["reproduce-design-smoke"]
    cell = tree["rows"]["energy + incremental"]["rFID"]
    assert cell["published"] == 0.47 and len(cell["measured"]) == 2 and cell["metric"] == "rfd_effnet2"
    assert tree["rows"]["cross-attention"].keys() == {"rFID"}
    folder = Path("runs/reproduce-design-smoke/reproduce")
    assert {path.name for path in folder.iterdir()} == {"table3.md", "table3.csv", "table3.json"}
    page = (folder / "table3.md").read_text()
    assert "| energy + incremental | 0.47 |" in page and "What differs from the paper" in page


def test_one_trial_gives_all_rows_of_table_1(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "table1", "--at", "smoke", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    first, second, third = (rows[name]["PSNR"]["measured"][0] for name in ("RAE", "phase 2", "phase 3"))
    assert first == second == third - 1


def test_a_generator_fills_the_columns_of_table_1(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "table1", "--at", "smoke", "--generator", "3", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert trained == ["reproduce-strategy-smoke-generator3"] and tree["generator_epochs"] == 3
    printed = {"RAE": (2.16, 1.74), "phase 2": (2.45, 1.70), "phase 3": (2.68, 1.65)}
    for name, (plain, guided) in printed.items():
        cells = tree["rows"][name]
        assert (cells["gFID"]["published"], cells["gFID with AutoGuidance"]["published"]) == (plain, guided)
        assert cells["gFID with AutoGuidance"]["metric"] == "autoguidance_1.5.gfd_effnet2"
        assert cells["gFID"]["measured"][0] - 1 == cells["gFID with AutoGuidance"]["measured"][0]
        measured = {cells[name]["metric"]: cells[name]["measured"] for name in ("IS", "precision", "recall")}
        assert measured == {"is_effnet2": [5.0], "precision_effnet2": [0.6], "recall_effnet2": [0.5]}
        # Reconstruction as without.
        assert cells["PSNR"]["measured"]
    assert any(line.startswith("gFID by gfd_effnet2: ") for line in tree["orders"])
    assert any("tiny for 3 epochs" in line for line in tree["deviations"])
    page = Path(tree["directory"], "table1.md").read_text()
    assert "| gFID (paper) | gfd_effnet2 |" in page and "| 235 | 5 |" in page


def test_a_generator_s_loss_stands_beside_the_published_one(
    capsys: pytest.CaptureFixture[str], trained: list[str]
) -> None:
    assert main(["reproduce", "table3", "--at", "smoke", "--generator", "3", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"]["energy + incremental"]
    found = {column: (row[column]["published"], row[column]["metric"]) for column in ("DiT loss", "DiT training loss")}
    assert found == {"DiT loss": (0.47, "probe_loss"), "DiT training loss": (0.47, "generator_loss")}
    assert len(row["DiT training loss"]["measured"]) == 1


def test_table_4_is_filled_by_a_generator_and_is_what_it_was_without(
    capsys: pytest.CaptureFixture[str], trained: list[str]
) -> None:
    columns = {"rFID", "gFID", "gFID with AutoGuidance"}
    for words, measured in ((["--generator", "3"], 1), ([], 0)):
        assert main(["reproduce", "table4", "--at", "smoke", *words, "--json"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert {column for row in tree["rows"].values() for column in row} == columns
        cells = [row["gFID"] for row in tree["rows"].values()]
        assert [cell["published"] for cell in cells] == [2.46, 2.68, 18.36]
        assert [len(cell["measured"]) for cell in cells] == 3 * [measured] and ("generator_epochs" in tree) == measured
    assert main(["reproduce", "table1", "--at", "smoke", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["RAE"].keys() == {"rFID", "PSNR", "LPIPS", "SSIM"}


@pytest.mark.parametrize("words", [["table8", "--generator", "2"], ["figure4", "--generator", "2"],
                                   ["table1", "--generator", "-1"]])  # fmt: skip
def test_a_generator_that_nothing_shows_is_refused(
    capsys: pytest.CaptureFixture[str], trained: list[str], words: list[str]
) -> None:
    assert main(["reproduce", *words, "--at", "smoke"]) == 2
    refused = capsys.readouterr().err
    assert "--generator" in refused and refused.count("\n") == 1 and trained == []


def test_scaling_has_three_laws_with_their_reports(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "scaling", "--at", "smoke"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: rfd_effnet2 slope" in shown for name in ("capacity", "layers", "pooled"))
    folder = Path("runs/reproduce-scaling-smoke/reproduce")
    found = json.loads((folder / "scaling.json").read_text())["laws"]
    assert [found[name]["fit"]["n"] for name in ("capacity", "layers", "pooled")] == [8, 12, 19]
    assert all((folder / name / "law.png").is_file() for name in found)
    assert "![capacity/law.png](capacity/law.png)" in (folder / "scaling.md").read_text()


def test_figures_have_their_numbers_and_pictures(capsys: pytest.CaptureFixture[str], trained: list[str]) -> None:
    assert main(["reproduce", "figure7", "--at", "smoke"]) == 0
    assert "gradient_correlation_01: 0.3" in capsys.readouterr().out
    folder = Path("runs/reproduce-strategy-smoke/reproduce")
    assert (folder / "figure7-logits.png").is_file()
    assert main(["reproduce", "figure9", "--at", "smoke"]) == 0
    assert "cos_fuse_base: -0.1 (paper: -0.22)" in capsys.readouterr().out

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

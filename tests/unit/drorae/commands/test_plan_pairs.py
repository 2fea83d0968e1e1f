"""`drorae plan --and` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from drorae.commands.main import main
from sweeps.spec import SweepSpec, expand

POOLED = str(Path(__file__).resolve().parents[4] / "results" / "paper" / "pooled_once.csv")
GIVEN = ["plan", POOLED, "--x", "capacity", "--and", "layers", "--y", "rfid"]


def test_pairs_become_a_sweep_of_capacities_and_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*GIVEN, "--goal", "interaction", "--runs", "8", "--seeds", "2", "--preset", "paper"]
    assert main([*asked, "--out", str(tmp_path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["goal"], tree["reached"], tree["seeds"], len(tree["pairs"])) == ("interaction", False, 2, 4)
    assert tree["widths_now"] == {"d": None}, "these runs vary one axis at a time"
    assert tree["pairs"][-1]["cost"] == 8 and tree["pairs"][-1]["widths"]["d"] > 0
    spec = SweepSpec.from_dict(json.loads((tmp_path / "sweep.json").read_text())["spec"])
    assert spec.to_dict() == tree["sweep"]
    ran = {(item.fusion.expert_hidden_dim, item.fusion.num_layers, item.seed) for item in expand(spec)}
    assert ran == {(*map(int, step["at"]), seed) for step in tree["pairs"] for seed in (0, 1)}


def test_a_plan_of_pairs_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, "--goal", "prediction", "--at", "4096", "4", "--budget", "500", "--cost", "10,0,0,0.03"]) == 0
    said = capsys.readouterr().out
    assert "rfid at capacity = 4096, layers = 4" in said and "most useful pair for its cost first" in said
    assert main([*GIVEN, "--runs", "4", "--and-smallest", "3", "--and-largest", "9", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert {step["at"][1] for step in tree["pairs"]} <= {3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0} and tree["cost"] is None
    assert set(tree["widths_now"]) == {"b", "c"} and tree["sweep"] is None


def test_the_cost_of_pairs_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(POOLED)
    product = frame["expert_hidden_dim"] * frame["num_layers"]
    frame.assign(train_seconds=20 + 0.01 * product, eval_seconds=5).to_csv(tmp_path / "runs.csv", index=False)
    asked = ["plan", str(tmp_path / "runs.csv"), *GIVEN[2:], "--budget", "400", "--json"]
    assert main(asked) == 0
    tree = json.loads(capsys.readouterr().out)
    # These runs vary one axis at a time, which leaves open which part of the cost grows; it is right where they are.
    ones = pd.DataFrame(
        {"fixed": 1, "first": frame["expert_hidden_dim"], "second": frame["num_layers"], "both": product}
    )
    assert list(ones @ pd.Series(tree["cost"])) == pytest.approx(list(25 + 0.01 * product))
    assert tree["pairs"][-1]["cost"] <= 400


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--goal offset --runs 8", "--goal offset: is about one axis"),
        ("--goal prediction --at 4096 --runs 8", "expected --at SIZE SECOND"),
        ("--runs 8 --seeds 1 3", "expected one number with --and"),
        ("--budget 100", "no train_seconds"),
        ("--budget 100 --cost 1,2,3,4,5", "FIXED[,PER_SIZE[,PER_SECOND[,PER_PRODUCT]]]"),
        ("--runs 8 --and-smallest 12", "no sizes between 12 and 12"),
    ],
)
def test_what_no_plan_of_pairs_can_be_made_of(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert main(["plan", POOLED, "--x", "capacity", "--y", "rfid", "--goal", "interaction", "--runs", "8"]) == 2
    assert "expected --and COLUMN" in capsys.readouterr().err

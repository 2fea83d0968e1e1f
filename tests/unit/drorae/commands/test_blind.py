"""`drorae plan --blind` through the command line: no runs needed, and no option that means nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from terminal import PAPER

from drorae.commands.main import main

BLIND = ["plan", "--blind", "--slope", "-0.06", "--seed-sd", "0.03", "--levels", "6", "--decades", "2"]


def test_a_design_is_judged_before_any_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BLIND, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    u = np.linspace(0, 2, 6)
    delta = 0.06 * math.sqrt(np.sum((u - 1) ** 2)) / 0.03
    t = stats.t.ppf(0.975, 4)
    assert tree["designs"][0]["power"] == pytest.approx(
        stats.nct.sf(t, 4, delta) + stats.nct.cdf(-t, 4, delta), abs=2e-3
    )
    assert (tree["designs"][0]["runs"], tree["beyond"], tree["supposed"]["loss"]) == (6, 0.3, 0.5)
    assert not list(elsewhere.iterdir())
    assert main([*BLIND, "--seeds", "3", "--y", "rfid", "--loss", "0.8", "--beyond", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "rfid changes by -0.06 per decade of params" in said and "loses 80% of its slope" in said
    assert "0.5 decades above" in said and all(name in said for name in ("6 x 3", "18 x 1", "wider", "ends", "three"))


def test_sizes_say_the_same_as_their_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BLIND, "--json"]) == 0
    levels = json.loads(capsys.readouterr().out)["designs"]
    sizes = [f"{size:.17g}" for size in 1e6 * np.logspace(0, 2, 6)]
    assert main([*BLIND[:6], "--sizes", *sizes, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)["designs"]
    assert given[0]["sizes"][0] == pytest.approx(1e6)
    for name in ("power", "slope_width", "prediction_width", "bend_power"):
        assert [item[name] for item in given] == pytest.approx([item[name] for item in levels], rel=1e-6)


def test_what_cannot_be_shown_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BLIND[:6], "--levels", "4", "--decades", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["designs"][0]["bend_power"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan --blind --slope -0.06", "--seed-sd: expected what to suppose"),
        ("plan --blind --seed-sd 0.01", "--slope: expected what to suppose"),
        ("plan --blind --slope 0 --seed-sd 0.01 --levels 4 --decades 1", "--slope 0: expected a number other than 0"),
        ("plan --blind --slope 1 --seed-sd nan --levels 4 --decades 1", "--seed-sd nan: expected a number above 0"),
        ("plan --blind --slope 1 --seed-sd 1", "--sizes or --levels: expected one of them"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 4", "--decades 0: expected a span above 0"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 3 --decades 1", "--levels 3: expected 4 or more sizes"),
        ("plan --blind --slope 1 --seed-sd 1 --sizes 1 2 3 3", "runs of one size are --seeds"),
        ("plan --blind --slope 1 --seed-sd 1 --sizes 1 2 3 many", "expected numbers"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 4 --decades 1 --loss 1", "--loss 1: expected a share"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 4 --decades 1 --beyond -1", "--beyond -1: expected decades"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 4 --decades 1 --seeds 1 3", "--seeds 1 3: expected one number"),
        ("plan --blind --slope 1 --seed-sd 1 --levels 4 --decades 1 --configuration-sd -1", "expected 0 or more"),
        (f"plan {PAPER} --blind --slope 1 --seed-sd 1", "SOURCE: means nothing beside --blind"),
        ("plan --blind --slope 1 --seed-sd 1 --runs 8", "--runs: means nothing beside --blind"),
        ("plan --blind --slope 1 --seed-sd 1 --preset paper", "--preset: means nothing beside --blind"),
        (f"plan {PAPER} --y rfid --runs 8 --slope 1", "--slope: means nothing without --blind"),
        (f"plan {PAPER} --y rfid --runs 8 --levels 4", "--levels: means nothing without --blind"),
        ("plan --y rfid --runs 8", "SOURCE: expected the runs to plan from"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1

"""Planning: designs that beat evenly spaced runs, costs measured from runs, and a sweep that can be run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.inference.analysis import analyse
from analysis.inference.evidence import compare_laws
from analysis.inference.plan import Cost, Design, measured_cost, propose
from analysis.laws.intervals import points
from analysis.table.files import read_table
from drorae.commands.main import main
from drorae.commands.sweep import Sweep
from drorae.errors import UserError
from sweeps.spec import SweepSpec, expand

RESULTS = Path(__file__).resolve().parents[4] / "results"
PAPER = RESULTS / "paper" / "capacity.csv"


def test_cost_is_measured() -> None:
    x = np.geomspace(1e5, 1e7, 9)
    found = measured_cost(x, 30 + 2e-6 * x)
    assert (found.fixed, found.per_size) == (pytest.approx(30, rel=1e-6), pytest.approx(2e-6, rel=1e-6))
    assert measured_cost(x, np.full(9, 12.0)).per_size == pytest.approx(0, abs=1e-12)
    with pytest.raises(UserError, match="duration above 0"):
        measured_cost(x, np.full(9, np.nan))


@pytest.mark.slow
def test_the_papers_next_runs_settle_what_evenly_spaced_ones_do_not() -> None:
    comparison = analyse(read_table(PAPER), "params", "rfid").comparison
    made = propose(comparison, "offset", Cost(1.0), 8, replications=200)
    assert made.best.design.runs == made.even.design.runs <= 8
    assert made.best.settled > made.even.settled + 0.3
    assert made.best.wrongly < 0.08
    assert made.settled_now == 0


@pytest.mark.slow
def test_expected_width_of_the_slope_is_what_comes() -> None:
    # Independent of the simulation: t s / sqrt(Sxx), with the scatter and the sizes of old and new runs.
    rng = np.random.default_rng(0)
    x = np.geomspace(1e5, 1e7, 8)
    comparison = compare_laws(points(x, 1 - 0.05 * np.log10(x) + rng.normal(0, 0.01, 8)))
    made = propose(comparison, "slope", Cost(1.0), 40, replications=300)
    assert made.reached and made.best.ratio <= 0.5
    chosen = made.best.design
    u = np.log10(np.concatenate([x, chosen.sizes]))
    before = np.sqrt(np.sum((np.log10(x) - np.log10(x).mean()) ** 2))
    assert made.best.ratio == pytest.approx(before / np.sqrt(np.sum((u - u.mean()) ** 2)), rel=0.25)
    # Of the designs that reach the goal the cheapest is proposed.
    assert made.best.seconds == min(item.seconds for item in made.appraisals if item.ratio <= 0.5)


def test_dear_sizes_are_avoided() -> None:
    comparison = analyse(read_table(PAPER), "params", "rfid").comparison
    made = propose(comparison, "slope", Cost(0.0, 1.0), 3e7, replications=100)
    assert all(item.seconds <= 3e7 * (1 + 1e-6) for item in made.appraisals)
    assert max(made.best.design.sizes) < 3e7
    with pytest.raises(UserError, match="buy no two runs"):
        propose(comparison, "slope", Cost(1.0), 1)


def test_seeds_of_one_size_are_worth_less_where_configurations_scatter() -> None:
    from analysis.inference.plan import _Simulation

    x = np.geomspace(1e5, 1e7, 8)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(1).normal(0, 0.01, 8)
    simulation = _Simulation(compare_laws(points(x, y)), "slope", None, 200, 0)
    many = simulation.judge(Design("a", tuple(np.geomspace(3e4, 3e7, 6)), 1), Cost(1.0))
    repeated = simulation.judge(Design("b", tuple(np.geomspace(3e4, 3e7, 2)), 3), Cost(1.0))
    assert many.seconds == repeated.seconds == 6
    assert many.settled >= repeated.settled


def test_plan_command_writes_a_sweep_that_sweep_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["plan", str(PAPER), "--y", "rfid", "--goal", "offset", "--runs", "8", "--replications", "50"]
    assert main([*given, "--preset", "paper", "--out", str(tmp_path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["even"]["runs"] == tree["designs"][0]["runs"]
    spec = SweepSpec.from_dict(json.loads((tmp_path / "sweep.json").read_text())["spec"])
    assert spec.to_dict() == tree["sweep"]
    widths = [config.fusion.expert_hidden_dim for config in expand(spec)]
    assert len(set(widths)) == tree["designs"][0]["runs"]
    # Four times the largest: 12 (2 C h + h + C) + C n^2 + n parameters.
    assert max(widths) == pytest.approx(4 * 6144, rel=0.01)
    assert Sweep(config=tmp_path / "sweep.json").spec() == spec
    assert main([*given, "--out", str(tmp_path)]) == 2
    assert "--preset NAME or --config FILE" in capsys.readouterr().err


def test_plan_of_a_sweep_measures_its_cost_and_keeps_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "plan",
        str(RESULTS / "quickstart"),
        "--y",
        "rfd_effnet2",
        "--budget",
        "600",
        "--replications",
        "50",
        "--json",
    ]
    assert main(given) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["cost"]["fixed"] > 0 and tree["designs"][0]["cost"] <= 600
    ran = json.loads((RESULTS / "quickstart" / "sweep.json").read_text())["spec"]
    assert SweepSpec.from_dict(tree["sweep"]).base == SweepSpec.from_dict(ran).base


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--runs 8", "--y: expected a metric"),
        ("--y rfid", "--budget or --runs"),
        ("--y rfid --budget 100", "no train_seconds"),
        ("--y rfid --budget 100 --cost cheap", "FIXED,PER_SIZE"),
        ("--y rfid --runs 8 --goal prediction", "expected --at"),
        ("--y rfid --runs 8 --seeds 0", "whole number above 0"),
        ("--y rfid --runs 1", "buy no two runs"),
        ("--y rfid --runs 8 --smallest 5 --largest 2", "no sizes between"),
    ],
)
def test_plan_refuses_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(PAPER), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

"""The command that sweeps, before anything is trained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from done_trials import begin, finish, spec_of
from tables import checked

from analysis.report.outcome import fit_table
from drorae.commands.main import main
from drorae.commands.sweep import Sweep, _print_trials, conclude
from drorae.commands.train import _print_result
from drorae.config import PRESETS, config_hash, override, to_dict
from drorae.trial.result import read_result
from sweeps.driver.run import SweepOutcome
from sweeps.folder.table import table_rows, write_table
from sweeps.spec import SweepSpec, expand


def test_dry_run_lists_the_trials_and_writes_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "sweep",
        "--preset",
        "smoke",
        "--no-check-convergence",
        "--axis",
        "capacity=8,16",
        "--axis",
        "seed=0,1",
        "--set",
        "fusion.beta=0.3",
    ]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [(trial["capacity"], trial["seed"]) for trial in trials] == [(8, 0), (8, 1), (16, 0), (16, 1)]
    base = override(override(PRESETS["smoke"], "fusion.beta", 0.3), "fusion.expert_hidden_dim", 8)
    assert trials[0]["config_hash"] == config_hash(base)
    # The formula of the paper for 12 layers of 384, written out.
    assert trials[0]["fusion_params"] == 12 * (2 * 384 * 8 + 8 + 384) + 384 * 12**2 + 12
    assert main(["sweep", "--preset", "paper", "--dry-run"]) == 0
    assert "8 trials" in capsys.readouterr().out
    assert not list(elsewhere.iterdir())


def test_a_dry_run_lists_the_trials_that_check_convergence(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--preset", "smoke", "--axis", "capacity=4,16,64", "--dry-run"]) == 0
    assert "5 trials, measured after phase 2; 2 of them check convergence, with twice the steps\n" in (
        capsys.readouterr().out
    )
    words = ["sweep", "--preset", "smoke", "--dry-run", "--json"]
    assert main(words) == 0
    tree = json.loads(capsys.readouterr().out)
    last = [(row["capacity"], row["phase2.epochs"]) for row in tree["trials"]][-2:]
    assert last == [(4, 2 * PRESETS["smoke"].phase2.epochs), (256, 2 * PRESETS["smoke"].phase2.epochs)]
    assert tree["convergence_checks"] == [row["config_hash"] for row in tree["trials"]][-2:]
    assert main([*words, "--no-check-convergence"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 4
    assert main([*words, "--no-check-convergence", "--check-convergence"]) == 2
    assert "expected one of the two" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["sweep", "--preset", "smoke", "--dry-run"], ["sweep", "--preset", "smoke"]])
def test_a_command_to_notify_that_does_not_exist_is_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([*words, "--notify", "nowhere/hook --token s3cret"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "notify: nowhere/hook: no such program; give the path of one" in said[0]
    assert "s3cret" not in said[0] and list(elsewhere.iterdir()) == []


def test_where_nothing_is_checked_a_line_says_why(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--preset", "smoke", "--dry-run"]
    assert main([*words, "--tune", "lr"]) == 0
    heard = capsys.readouterr()
    assert "4 trials, measured" in heard.out and "convergence is not checked: --tune" in heard.err
    assert main([*words, "--axis", "phase2.epochs=2,4", "capacity=8"]) == 0
    assert "convergence is not checked: no phase" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "measured"), [("rae", "phase 1"), ("raev2", "phase 1"), ("hirae", "phase 2"), ("paper", "phase 3")]
)
def test_a_dry_run_says_after_which_phase_it_measures(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], preset: str, measured: str
) -> None:
    assert main(["sweep", "--preset", preset, "--dry-run"]) == 0
    assert f"measured after {measured}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ((), "rfd_effnet2"),
        (("evaluation.extractors=dinov2,effnet,effnet2",), "rfd_effnet2"),
        (("evaluation.extractors=effnet,dinov2",), "psnr"),
        (("evaluation.extractors=effnet,dinov2", "objective.perceptual=none"), "rfd_effnet"),
    ],
)
def test_a_search_optimises_what_training_does_not_look_through(settings: tuple[str, ...], objective: str) -> None:
    options = Sweep(preset="smoke", tune=(("lr",),), overrides=tuple((text,) for text in settings))
    search = options.spec().search
    assert search is not None and search.objectives == (objective,)


def test_the_table_that_ends_a_sweep_marks_metrics_that_are_not_independent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = expand(spec_of("mine", (4, 8)))
    for config in configs:
        finish(tmp_path / "trials", config)
    rows = table_rows(configs, tmp_path / "trials")
    table = tmp_path / "trials.csv"
    write_table(table, rows)
    outcome = SimpleNamespace(directory=tmp_path, trials_csv=table, counts={"finished": 2})
    _print_trials(outcome, list(csv.DictReader(table.open())))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "rfd_dinov2*" in said and "psnr*" not in said
    assert "* rfd_dinov2: in the tokenizer's own features\n* rfd_effnet: in training's features\n" in said


def test_a_saved_config_can_be_swept(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = override(PRESETS["smoke"], "fusion.beta", 0.4)
    (elsewhere / "mine.json").write_text(json.dumps(to_dict(config)))
    assert main(["sweep", "--config", "mine.json", "--axis", "seed=0,5", "--dry-run", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["config_hash"] for trial in trials] == [
        config_hash(config),
        config_hash(override(config, "seed", 5)),
    ]


def test_the_table_that_ends_a_sweep_has_the_gain_in_the_first_metric_that_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = expand(spec_of("mine", (4, 8)))
    finish(tmp_path / "trials", configs[0])
    begin(tmp_path / "trials", configs[1])
    table = tmp_path / "trials.csv"
    counts = write_table(table, table_rows(configs, tmp_path / "trials"))
    rows = list(csv.DictReader(table.open()))
    _print_trials(SweepOutcome(tmp_path, table, counts, "", "sqlite:///runs.db"), rows)
    printed = capsys.readouterr().out
    assert "gain_psnr" in printed and "+1.602 ± 0.32" in printed and "gain_rfd" not in printed and "None" not in printed


def test_a_trial_s_table_has_its_gains_where_it_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_result(finish(tmp_path, spec_of("mine").base))
    assert result is not None
    _print_result(tmp_path, result)
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1}
    assert "± 0.32" in rows["psnr"] and "±" not in rows["ssim"] and "gain (95%)" in rows["metric"]


@pytest.mark.parametrize(("moved", "line"), [(0.7, "not converged: twice the steps move the law of psnr"), (0.01, "")])
def test_a_sweep_ends_with_a_line_where_longer_trials_would_move_its_law(
    moved: float, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    law = fit_table(checked(0.01, moved), "params", ["psnr"])
    monkeypatch.setattr("drorae.commands.sweep._fit", lambda spec, outcome: law)
    outcome = SweepOutcome(tmp_path, tmp_path / "trials.csv", {"finished": 12}, "run", "sqlite://")
    assert conclude(SweepSpec("mine", PRESETS["smoke"]), outcome, tmp_path, no_fit=False, as_json=True) == 0
    heard = capsys.readouterr()
    assert heard.err.splitlines()[-1:] == ([f"{line}; train for more epochs"] if line else [])
    assert json.loads(heard.out)["fits"][0]["n"] == 10

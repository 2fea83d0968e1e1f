"""The command that sweeps, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drorae.commands.main import main
from drorae.config import PRESETS, config_hash, override, to_dict


def test_dry_run_lists_the_trials_and_writes_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "sweep",
        "--preset",
        "smoke",
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


@pytest.mark.parametrize(
    ("preset", "measured"), [("rae", "phase 1"), ("raev2", "phase 1"), ("hirae", "phase 2"), ("paper", "phase 3")]
)
def test_a_dry_run_says_after_which_phase_it_measures(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], preset: str, measured: str
) -> None:
    assert main(["sweep", "--preset", preset, "--dry-run"]) == 0
    assert f"measured after {measured}\n" in capsys.readouterr().out


def test_a_saved_config_can_be_swept(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = override(PRESETS["smoke"], "fusion.beta", 0.4)
    (elsewhere / "mine.json").write_text(json.dumps(to_dict(config)))
    assert main(["sweep", "--config", "mine.json", "--axis", "seed=0,5", "--dry-run", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["config_hash"] for trial in trials] == [
        config_hash(config),
        config_hash(override(config, "seed", 5)),
    ]

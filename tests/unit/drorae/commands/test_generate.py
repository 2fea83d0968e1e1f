"""`drorae generate`: what is asked for is trained once and drawn."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thumbnail import Thumbnail
from tiny_generator import tiny_trial

from drorae.commands.main import main

TRAINING = ["--size", "tiny", "--epochs", "2", "--set", "generator.batch_size=8", "generator.early_depth=1"]
DRAWING = ["--n", "6", "--steps", "2", "--batch-size", "4", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_trial(tmp_path_factory.mktemp("home")).parent


@pytest.fixture
def command(home: Path, tmp_path: Path) -> list[str]:
    trial = shutil.copytree(home / "trial", tmp_path / "trial")
    return ["generate", str(trial), *DRAWING, "--cache-dir", str(home / "cache")]


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_generator_is_trained_once_and_then_named_alone(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = answer([*command, *TRAINING, "--name", "mine"], capsys)
    folder = tmp_path / "trial" / "generator" / "mine"
    assert first["generator"] == str(folder) and first["steps"] == 8 and first["images"] == 6
    weights = (folder / "generator.safetensors").stat().st_mtime_ns
    again = answer([*command, "--name", "mine"], capsys)
    assert again == first and (folder / "generator.safetensors").stat().st_mtime_ns == weights
    drawn = Path(first["samples"])
    assert drawn.parent == folder and len(list(drawn.glob("0*.png"))) == 6 and (drawn / "grid.png").is_file()
    other = answer([*command, "--name", "mine", "--guidance", "autoguidance=2", "--interval", "0.1,1"], capsys)
    assert other["samples"] != first["samples"]
    npz = tmp_path / "all.npz"
    assert answer([*command, "--name", "mine", "--npz", str(npz), "--out", str(tmp_path / "o")], capsys)["npz"]
    assert np.load(npz)["arr_0"].shape == (6, 32, 32, 3)
    assert "generator/mine: holds another generator" in refused(
        [*command, *TRAINING, "--name", "mine", "--epochs", "3"], capsys
    )


def test_one_generator_can_lead_away_from_another(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answer([*command, *TRAINING, "--name", "good"], capsys)
    led = [*command, "--name", "good", "--guidance", "autoguidance=2", "--bad", "worse"]
    assert "has no such generator; train it with --name first" in refused(led, capsys)
    answer([*command, *TRAINING, "--epochs", "1", "--name", "worse"], capsys)
    assert answer(led, capsys)["generator"].endswith("good")


def test_without_a_name_what_describes_it_finds_it_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = (answer([*command, *TRAINING], capsys) for _ in range(2))
    assert first == again and re.fullmatch(r"[0-9a-f]{12}", Path(first["generator"]).name)
    assert len(list((tmp_path / "trial" / "generator").iterdir())) == 1


def test_measured_images_are_told_with_their_controls_and_verdicts(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drorae.trial.generated.load_extractor", lambda *arguments: Thumbnail())
    words = [*command, *TRAINING, "--n", "12", "--measure"]
    found = answer(words, capsys)
    assert found["metrics"]["gfd_thumbnail_images"] == 12 and len(found["verdicts"]) == 2
    kept = json.loads((Path(found["samples"]) / "generated.json").read_text())
    assert kept["metrics"] == found["metrics"] and kept["controls"] == found["controls"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("gfd_thumbnail", "recall_thumbnail", "Gaussian, decoded", *found["verdicts"]))
    assert "--n 9: expected 10 or more with --measure" in refused([*words, "--n", "9"], capsys)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--size", "huge"], "--size huge: no such size; choose one of dit_dh_xl, dit_dh_s, small, tiny"),
        (["--training", "fast"], "--training fast: no such training; choose one of own, rae, drorae"),
        (["--set", "generator.capacity=3"], "generator.capacity: no such field"),
        (["--classes", "cat"], "--classes cat: expected numbers with commas between them"),
        (["--interval", "0.5"], "--interval 0.5: expected two times"),
        (["--guidance", "cfg"], "guidance cfg: expected none, or NAME=W"),
        (["--bad", "worse"], "--bad worse: expected --guidance autoguidance=W with it"),
        (["--n", "0"], "--n 0: expected 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    command: list[str], asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([*command, *asked], capsys)
    assert not (tmp_path / "trial" / "generator").exists()

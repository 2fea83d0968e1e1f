"""`drorae train` in several processes: what it asks for, and that it trains what one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.commands.main import main
from drorae.config import EvaluationConfig, PhaseConfig, canonical_json
from sweeps.resources import Resources


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A tiny trial's command, of which one phase trains."""
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"), phase2=PhaseConfig(epochs=0), phase1=PhaseConfig(epochs=2, batch_size=16),
        evaluation=EvaluationConfig(extractors=()), phase3=PhaseConfig(epochs=1, batch_size=16, lr=1e-4),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(canonical_json(config))
    return ["train", "--device", "cpu", "--config", str(tmp_path / "config.json")]


def losses(trial: Path) -> list[float]:
    rows = [json.loads(line) for line in (trial / "history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_two_processes_train_one_trial_like_one(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for processes in ("1", "2"):
        place = tmp_path / processes
        more = [
            "--no-track",
            "--processes",
            processes,
            "--out",
            str(place),
            "--cache-dir",
            str(tmp_path / f"c{processes}"),
        ]
        assert main([*words, *more, "--json"]) == 0
        said = capsys.readouterr()
        assert said.err.count("validation images look like a training image") == 1, "from the main process alone"
        found.append((losses(place), json.loads(said.out)))
    (one, result), (two, of_two) = found
    assert len(one) == 1 and two == pytest.approx(one, rel=1e-5)
    assert of_two["metrics"].keys() == result["metrics"].keys()
    assert of_two["metrics"]["psnr"] == pytest.approx(result["metrics"]["psnr"], rel=1e-3)
    assert of_two["baseline"]["psnr"] == pytest.approx(result["baseline"]["psnr"], rel=1e-3)


@pytest.mark.slow
def test_what_fails_in_the_processes_is_one_line(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["--no-track", "--processes", "2", "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
    assert main([*words, *more, "--set", "phase1.batch_size=15"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "note:" not in line and "training" not in line]
    assert lines == ["error: phase1.batch_size: 15 images cannot be shared by 2 processes; use a multiple of 2"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--gpus", "99", "--device", "cuda"], "--gpus 99: expected no more than this machine has, 0"),
        (["--gpus", "2"], "--gpus 2 --device cpu: expected --device cuda"),
        (["--gpus", "0", "--processes", "0"], "resources: 0 processes per trial; expected 1 or more"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_anything_starts(
    words: list[str], asked: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("drorae.machine.capacity.check_machine", lambda config, runtime: None)
    assert main([*words, "--no-track", *asked]) == 2
    assert said in capsys.readouterr().err


def test_a_tracked_trial_gets_its_processes_from_the_sweep(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class EnoughError(Exception):
        pass

    def run_sweep(spec: Any, **more: Any) -> None:
        given.update(more)
        raise EnoughError

    monkeypatch.setattr("sweeps.driver.run.run_sweep", run_sweep)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    main([*words, "--processes", "2", "--out", str(tmp_path / "out")])
    assert given["resources"] == Resources(cpus=2.0, processes=2) and given["runtime"].threads == 4

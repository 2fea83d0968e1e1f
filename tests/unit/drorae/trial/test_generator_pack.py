"""Generators trained as a pack: each trial ends as it would alone, however the pack is cut short."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tiny import tiny_config, tiny_images
from tiny_generator import label, tiny_runtime

from drorae.config import EvaluationConfig, FusionConfig, GenerationConfig, PhaseConfig, Runtime, TrialConfig
from drorae.trial.generator_pack import train_generators
from drorae.trial.pack import train_pack
from drorae.trial.run import run_trial

SIZES = {"narrow": 4, "middle": 8, "wide": 16}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def runtime(home: Path) -> Runtime:
    return tiny_runtime(home)


@pytest.fixture(scope="module")
def configs(home: Path) -> dict[str, TrialConfig]:
    images, phase = label(tiny_images(home / "images.npz"), 4), PhaseConfig(epochs=1, batch_size=16)
    # Adam's first steps are as long for a gradient of rounding errors as for any other.
    generation = GenerationConfig("tiny", epochs=2, batch_size=8, lr=1e-5, samples=16, steps=2)
    config = tiny_config(images, phase1=phase, phase2=phase, evaluation=EvaluationConfig(("effnet2",), batch_size=8))
    config = replace(config, generator=generation)
    return {name: replace(config, fusion=FusionConfig(expert_hidden_dim=size)) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def tokenizers(configs: dict[str, TrialConfig], runtime: Runtime, home: Path) -> Path:
    """Trials whose phase 2 is trained, and their generators are not; to be copied."""
    trials = {home / "tokenizers" / name: config for name, config in configs.items()}
    assert len(train_pack(trials, runtime=runtime)) == len(trials)
    return home / "tokenizers"


@pytest.fixture(scope="module")
def alone(tokenizers: Path, configs: dict[str, TrialConfig], runtime: Runtime, home: Path) -> Path:
    """The same trials, ended one by one."""
    root = shutil.copytree(tokenizers, home / "alone")
    for name, config in configs.items():
        run_trial(config, directory=root / name, runtime=runtime)
    return root


@pytest.fixture
def trials(tokenizers: Path, configs: dict[str, TrialConfig], tmp_path: Path) -> dict[Path, TrialConfig]:
    root = shutil.copytree(tokenizers, tmp_path / "trials")
    return {root / name: config for name, config in configs.items()}


def generator(trial: Path) -> Path:
    (folder,) = (trial / "generator").iterdir()
    return folder


def record(trial: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((generator(trial) / "generator.json").read_text())
    return found


def assert_same(trial: Path, other: Path) -> None:
    """Compares all weights of two trials' generators."""
    names = sorted(path.name for path in generator(other).glob("*.safetensors"))
    assert names == ["early.safetensors", "generator.safetensors", "statistics.safetensors"]
    for name in names:
        torch.testing.assert_close(
            load_file(generator(trial) / name), load_file(generator(other) / name), rtol=1e-5, atol=1e-5
        )


def test_each_generator_of_a_pack_ends_as_it_does_alone(
    trials: dict[Path, TrialConfig], alone: Path, runtime: Runtime
) -> None:
    rows: list[dict[str, Any]] = []
    assert train_generators(trials, rows.append, runtime=runtime) == list(trials)
    steps = list(range(1, 9))
    assert [row["step"] for row in rows if row["phase"] == "generator" and "step" in row] == steps
    assert train_generators(trials, runtime=runtime) == list(trials), "at their end, and not yet kept by their trials"
    for trial, config in trials.items():
        again: list[dict[str, Any]] = []
        found = run_trial(config, again.append, directory=trial, runtime=runtime)
        # Its own rows, as if it had been alone.
        assert [row["step"] for row in again if row["phase"] == "generator" and "step" in row] == steps
        assert_same(trial, alone / trial.name)
        expected = json.loads((alone / trial.name / "result.json").read_text())["metrics"]
        assert found.metrics["generator_loss"] == pytest.approx(expected["generator_loss"], rel=1e-5)
        assert record(trial)["packed"] == 3 and "packed" not in record(alone / trial.name)
        assert found.device_seconds > record(trial)["cpu_seconds"] > 0, "what the pack took is counted"
        assert not list(generator(trial).glob("checkpoint*"))


def test_a_pack_that_is_cut_short_goes_on_together_or_alone(
    trials: dict[Path, TrialConfig], alone: Path, runtime: Runtime
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == "generator" and row.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generators(trials, stop, runtime=runtime)
    first, *others = trials
    run_trial(trials[first], directory=first, runtime=runtime)
    assert train_generators(trials, runtime=runtime) == others
    for trial in others:
        run_trial(trials[trial], directory=trial, runtime=runtime)
    for trial in trials:
        assert_same(trial, alone / trial.name)


def test_who_has_no_trained_tokenizer_is_alone_or_at_work_elsewhere_is_left_out(
    trials: dict[Path, TrialConfig], runtime: Runtime
) -> None:
    narrow, middle, wide = trials
    (wide / "fusion.safetensors").unlink()
    with FileLock(middle / ".lock"):
        assert train_generators(trials, runtime=runtime) == []
    others = {narrow: trials[narrow], middle: replace(trials[middle], generator=GenerationConfig())}
    assert train_generators(others, runtime=runtime) == [], "one alone is no pack"
    assert train_generators(trials, runtime=runtime) == [narrow, middle]


def test_generators_that_learn_in_other_ways_make_packs_of_their_own(
    trials: dict[Path, TrialConfig], runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from drorae.trial import generator_pack

    sizes, train = [], generator_pack.train_together

    def counted(runs: Any, take: Any) -> Any:
        sizes.append(len(runs))
        return train(runs, take)

    monkeypatch.setattr(generator_pack, "train_together", counted)
    narrow, middle, wide = trials
    # Of the tokenizer nothing is asked but that it is trained.
    other = replace(trials[wide], generator=replace(trials[wide].generator, epochs=1))
    again = {tmp_path / "again": other}
    shutil.copytree(wide, tmp_path / "again")
    (tmp_path / "again" / "config.json").unlink()
    (tmp_path / "again" / "inputs.json").unlink()
    assert train_generators(trials | again, runtime=runtime) == [narrow, middle, wide] and sizes == [3]

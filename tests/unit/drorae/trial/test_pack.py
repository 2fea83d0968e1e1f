"""A pack of trials: each ends as it would alone, however the pack is cut short, and whoever is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tiny import tiny_config, tiny_images

from drorae.config import FusionConfig, PhaseConfig, Runtime, TrialConfig, config_hash
from drorae.training import pack
from drorae.training.checkpoint import load_checkpoint
from drorae.trial.folder import TrialStatus
from drorae.trial.own_phases import checkpoint_of
from drorae.trial.pack import train_pack
from drorae.trial.result import PACKED, TrialResult, read_result
from drorae.trial.run import run_trial

FUSIONS = {
    "narrow": FusionConfig(expert_hidden_dim=4),
    "wide": FusionConfig(expert_hidden_dim=64),
    "softmax": FusionConfig(variant="softmax", expert_hidden_dim=8, incremental=False),
    "deep": FusionConfig(expert_hidden_dim=8, num_layers=4),
    "attention": FusionConfig(variant="cross_attention", expert_hidden_dim=16),
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    cache = str(tmp_path_factory.mktemp("cache"))
    return Runtime(device="cpu", threads=1, cache_dir=cache, log_steps=1, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialConfig]:
    config = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    config = replace(config, phase2=replace(config.phase2, ema_decay=0.5), phase3=PhaseConfig(1, 16, warmup_steps=1))
    trials = {name: replace(config, fusion=fusion) for name, fusion in FUSIONS.items()}
    return trials | {"quick": replace(trials["narrow"], phase2=replace(config.phase2, lr=1e-2, clip_norm=0.1))}


@pytest.fixture(scope="module")
def alone(
    configs: dict[str, TrialConfig], runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, TrialResult]]:
    """Every trial run by itself: their folders, and their results."""
    root = tmp_path_factory.mktemp("alone")
    return root, {name: run_trial(config, directory=root / name, runtime=runtime) for name, config in configs.items()}


def assert_same(root: Path, other: Path, names: list[str]) -> None:
    """Compares the fusions of trials of two roots."""
    for name in names:
        found, expected = (load_file(folder / name / "fusion.safetensors") for folder in (root, other))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def test_each_trial_of_a_pack_ends_as_it_does_alone(
    configs: dict[str, TrialConfig], runtime: Runtime, alone: tuple[Path, dict[str, TrialResult]], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    trained = train_pack({tmp_path / name: config for name, config in configs.items()}, rows.append, runtime=runtime)
    assert trained == [tmp_path / name for name in configs]
    # The first is heard of while it is trained.
    assert [row["step"] for row in rows if row["phase"] == "phase2" and "step" in row] == [1, 2, 3, 4]
    root, expected = alone
    assert_same(tmp_path, root, list(configs))
    seconds = []
    for name, config in configs.items():
        again: list[dict[str, Any]] = []
        found = run_trial(config, again.append, directory=tmp_path / name, runtime=runtime)
        assert found.metrics == pytest.approx(expected[name].metrics, rel=1e-4)
        assert found.provenance[PACKED] == "6" and PACKED not in expected[name].provenance
        # Its own rows, as if it had been alone.
        assert [row["step"] for row in again if row["phase"] == "phase2" and "step" in row] == [1, 2, 3, 4]
        seconds.append(found.train_seconds)
    assert seconds[1] > seconds[0] > 0


def interrupted(at: int) -> Callable[[dict[str, Any]], None]:
    def report(row: dict[str, Any]) -> None:
        if row.get("phase") == "phase2" and row.get("step") == at:
            raise KeyboardInterrupt

    return report


def test_a_pack_that_is_cut_short_goes_on_and_those_behind_catch_up(
    configs: dict[str, TrialConfig], runtime: Runtime, alone: tuple[Path, dict[str, TrialResult]], tmp_path: Path
) -> None:
    names = ["narrow", "wide", "quick"]
    trials = {tmp_path / name: configs[name] for name in names}
    with pytest.raises(KeyboardInterrupt):
        train_pack(trials, interrupted(2), runtime=runtime)
    phase = configs["narrow"].phases[1]
    steps = [(load_checkpoint(checkpoint_of(phase, folder)) or {}).get("step") for folder in trials]
    # The first was cut off right after its save, the others before theirs.
    assert steps == [2, 1, 1]
    assert train_pack(trials, runtime=runtime) == list(trials)
    assert_same(tmp_path, alone[0], names)


def test_one_that_was_in_a_pack_goes_on_alone(
    configs: dict[str, TrialConfig], runtime: Runtime, alone: tuple[Path, dict[str, TrialResult]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_pack({tmp_path / name: configs[name] for name in ("wide", "deep")}, interrupted(3), runtime=runtime)
    run_trial(configs["wide"], directory=tmp_path / "wide", runtime=runtime)
    assert_same(tmp_path, alone[0], ["wide"])


def test_who_is_at_work_elsewhere_done_or_of_another_config_is_left_out(
    configs: dict[str, TrialConfig], runtime: Runtime, tmp_path: Path
) -> None:
    names = ["narrow", "wide", "softmax", "deep", "quick"]
    trials = {tmp_path / name: configs[name] for name in names}
    run_trial(configs["wide"], directory=tmp_path / "wide", runtime=runtime)
    # This folder holds another trial, as `run_trial` will say.
    run_trial(configs["attention"], directory=tmp_path / "deep", runtime=runtime)
    (tmp_path / "softmax").mkdir()
    with FileLock(tmp_path / "softmax" / ".lock"):
        assert train_pack(trials, runtime=runtime) == [tmp_path / "narrow", tmp_path / "quick"]
    # One alone is no pack.
    assert train_pack(trials, runtime=runtime) == []


def test_one_that_diverges_leaves_the_others(
    configs: dict[str, TrialConfig], runtime: Runtime, alone: tuple[Path, dict[str, TrialResult]], tmp_path: Path
) -> None:
    wild = replace(configs["wide"], phase2=replace(configs["wide"].phase2, lr=1e38, clip_norm=0.0))
    trials = {tmp_path / "wild": wild, tmp_path / "narrow": configs["narrow"], tmp_path / "deep": configs["deep"]}
    assert train_pack(trials, runtime=runtime) == [tmp_path / "narrow", tmp_path / "deep"]
    assert_same(tmp_path, alone[0], ["narrow", "deep"])
    assert run_trial(wild, directory=tmp_path / "wild", runtime=runtime).status == TrialStatus.DIVERGED
    assert read_result(tmp_path / "narrow") is None


@pytest.mark.parametrize("limit", [8, 5])
def test_fewer_images_at_once_are_those_of_all(
    limit: int,
    configs: dict[str, TrialConfig],
    runtime: Runtime,
    alone: tuple[Path, dict[str, TrialResult]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most, decode = [0], pack.Stepper.pieces

    def counted(self: Any, step: int, piece: int) -> Any:
        most[0] = max(most[0], piece)
        return decode(self, step, piece)

    monkeypatch.setattr(pack.Stepper, "pieces", counted)
    trials = {tmp_path / name: configs[name] for name in ("narrow", "quick")}
    assert len(train_pack(trials, runtime=replace(runtime, micro_batch=limit))) == 2 and most[0] == limit // 2
    assert_same(tmp_path, alone[0], ["narrow", "quick"])


def test_memory_that_runs_out_halves_the_images_of_all(
    configs: dict[str, TrialConfig],
    runtime: Runtime,
    alone: tuple[Path, dict[str, TrialResult]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = pack.Stepper.losses

    def full(self: Any, piece: Any, painted: Any) -> Any:
        if piece.size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(self, piece, painted)

    monkeypatch.setattr(pack.Stepper, "losses", full)
    trials = {tmp_path / name: configs[name] for name in ("narrow", "quick")}
    with pytest.warns(UserWarning, match="of 2 trials, step 1: out of memory"):
        assert len(train_pack(trials, runtime=runtime)) == 2
    monkeypatch.undo()
    assert_same(tmp_path, alone[0], ["narrow", "quick"])
    result = run_trial(configs["quick"], directory=tmp_path / "quick", runtime=runtime)
    assert result.provenance["micro_batch.phase2"] == "4"


def test_other_seeds_decoders_or_batches_make_no_pack(configs: dict[str, TrialConfig], tmp_path: Path) -> None:
    config = configs["narrow"]
    others = [
        replace(config, seed=1),
        replace(config, decoder=replace(config.decoder, seed=1)),
        replace(config, phase2=replace(config.phase2, batch_size=8)),
        replace(config, phase2=replace(config.phase2, trains=("fusion", "decoder"))),
        replace(config, fusion=FusionConfig(variant="mean")),
    ]
    for other in others:
        assert config_hash(other) != config_hash(config)
        with pytest.raises(ValueError, match="in common"):
            train_pack({tmp_path / "a": config, tmp_path / "b": other})

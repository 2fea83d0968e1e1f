"""A worker that trains a pack: for the trials nobody else is at, and what is left where it cannot."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import FusionConfig, Runtime, TrialConfig, config_hash
from drorae.errors import UserError
from drorae.trial import generator_pack, pack, shared
from drorae.trial.folder import LEASE, WARNINGS, TrialStatus, ready_trial, write_ending
from drorae.trial.result import PACKED, read_result
from sweeps.folder.lease import Lease
from sweeps.folder.sweep import RunAddress
from sweeps.resources import Share
from sweeps.settings import RUN_TRIAL
from sweeps.worker.attempt import Attempt, Work, train
from sweeps.worker.pack import train_pack

CAPACITIES = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialConfig]:
    config = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    trials = [replace(config, fusion=FusionConfig(expert_hidden_dim=capacity)) for capacity in CAPACITIES]
    return {config_hash(trial): trial for trial in trials}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(tmp_path_factory.mktemp("cache")))


def attempt(root: Path, key: str, configs: dict[str, TrialConfig], runtime: Runtime) -> Attempt:
    first, *others = configs
    address = RunAddress(*[""] * len(dataclasses.fields(RunAddress)))
    work = Work(str(root), runtime, address, RUN_TRIAL, False, {first: tuple(others)})
    return Attempt(work, key, Share(), Lease(root / "worker.lease"), 1)


def test_a_worker_trains_for_those_that_nobody_is_at(
    configs: dict[str, TrialConfig], runtime: Runtime, tmp_path: Path
) -> None:
    first, free, taken, failed = configs
    for key, config in configs.items():
        ready_trial(tmp_path / key, config)
    write_ending(tmp_path / failed, TrialStatus.FAILED, "given up")
    with Lease(tmp_path / taken / LEASE) as lease:
        lease.acquire()
        assert train(attempt(tmp_path, first, configs, runtime), runtime, lambda row: None, main=False)
    packed = {key: (tmp_path / key / "phase2.json").is_file() for key in configs}
    assert packed == {first: True, free: True, taken: False, failed: False}
    assert read_result(tmp_path / free) is None and not (tmp_path / free / LEASE).exists()
    for key in (free, taken):
        assert train(attempt(tmp_path, key, configs, runtime), runtime, lambda row: None, main=False)
    results = [read_result(tmp_path / key) for key in (first, free, taken)]
    assert [result.provenance.get(PACKED) for result in results if result] == ["2", "2", None]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_generators_are_trained_together_on_a_gpu_alone(
    device: str,
    configs: dict[str, TrialConfig],
    runtime: Runtime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[tuple[str, int]] = []

    def train(name: str, trials: dict[Path, TrialConfig], report: Any, runtime: Runtime) -> None:
        called.append((name, len(trials)))

    monkeypatch.setattr(pack, "train_pack", functools.partial(train, "phase2"))
    monkeypatch.setattr(generator_pack, "train_generators", functools.partial(train, "generators"))
    monkeypatch.setattr(shared, "choose_device", lambda runtime: torch.device(device))
    for key, config in configs.items():
        ready_trial(tmp_path / key, config)
    (first, config), *others = configs.items()
    assert train_pack(tmp_path, first, tuple(key for key, _ in others), config, lambda row: None, runtime) == ""
    assert called == [("phase2", 4), ("generators", 4)][: 1 if device == "cpu" else 2]


def test_a_pack_that_cannot_be_is_trained_one_by_one(
    configs: dict[str, TrialConfig], runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise UserError("phase2 of 4 trials, step 1: out of memory with one image at a time")

    monkeypatch.setattr(pack, "train_together", full)
    for key, config in configs.items():
        ready_trial(tmp_path / key, config)
    first = next(iter(configs))
    assert train(attempt(tmp_path, first, configs, runtime), runtime, lambda row: None, main=False)
    result = read_result(tmp_path / first)
    assert result is not None and PACKED not in result.provenance
    assert "its pack is trained one by one: phase2 of 4 trials" in (tmp_path / first / WARNINGS).read_text()

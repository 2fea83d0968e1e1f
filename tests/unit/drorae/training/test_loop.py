"""The loop of a phase: interrupted or not, it ends the same; a loss that is no number ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from drorae.config import PhaseConfig, Runtime, TrialConfig
from drorae.errors import UserError
from drorae.models.tokenizer import build_tokenizer
from drorae.models.weights import state_sha256
from drorae.training.checkpoint import load_checkpoint, save_checkpoint
from drorae.training.loop import DivergenceError, train_phase
from drorae.trial.shared import open_workshop

Run = Callable[..., tuple[list[dict[str, Any]], str]]


@pytest.fixture(scope="module")
def run(config: TrialConfig, runtime: Runtime) -> Run:
    """Trains phase 1 of the smallest trial; returns what was reported, and the digest of the decoder."""
    workshop = open_workshop(dataclasses.replace(config, phase1=PhaseConfig(epochs=0)), runtime)

    def train(checkpoint: Path, report: Callable[[dict[str, Any]], None] = lambda row: None, **settings: Any) -> Any:
        tokenizer = build_tokenizer(config, workshop.encoder)
        rows: list[dict[str, Any]] = []
        phase = dataclasses.replace(config, phase1=dataclasses.replace(config.phase1, **settings)).phases[0]

        def note(row: dict[str, Any]) -> None:
            rows.append(row)
            report(row)

        train_phase(
            tokenizer, phase, workshop.train, workshop.objective,
            seed=0, device=torch.device("cpu"), checkpoint=checkpoint,
            runtime=dataclasses.replace(runtime, checkpoint_seconds=0), report=note,
        )  # fmt: skip
        return rows, state_sha256(tokenizer.decoder.state_dict())

    return train


def test_an_interrupted_phase_ends_as_one_that_was_not(run: Run, tmp_path: Path) -> None:
    whole, weights = run(tmp_path / "whole.pt")
    assert [row["step"] for row in whole] == [1, 2, 3, 4] and {row["phase"] for row in whole} == {"phase1"}

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", stop)
    assert (load_checkpoint(tmp_path / "cut.pt") or {})["step"] == 3
    again, resumed = run(tmp_path / "cut.pt")
    assert resumed == weights
    assert [(row["step"], row["loss"], row["lr"]) for row in again] == [
        (row["step"], row["loss"], row["lr"]) for row in whole
    ]


def test_a_phase_of_no_epochs_changes_nothing(run: Run, tmp_path: Path) -> None:
    rows, weights = run(tmp_path / "none.pt", epochs=0)
    assert rows == [] and run(tmp_path / "trained.pt")[1] != weights


def test_a_loss_that_is_no_number_ends_the_phase_and_says_where(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="phase1: .* step .*; lower phase1.lr"):
        run(tmp_path / "wild.pt", lr=1e30, clip_norm=0.0, warmup_steps=0)


def test_a_checkpoint_of_another_config_is_named(run: Run, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other.pt", {"module": {}})
    with pytest.raises(UserError, match="other.pt: does not fit this config .*; rename it to start over"):
        run(tmp_path / "other.pt")

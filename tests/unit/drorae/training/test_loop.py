"""The loop of a phase: interrupted or not, it ends the same; a loss that is no number ends it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drorae.config import PhaseConfig, Runtime, TrialConfig
from drorae.errors import UserError
from drorae.models.tokenizer import build_tokenizer
from drorae.models.weights import state_sha256
from drorae.training import checkpoint as checkpoints
from drorae.training import loop
from drorae.training import rows as kept_rows
from drorae.training.checkpoint import CheckpointWriter, load_checkpoint, save_checkpoint
from drorae.training.loop import DivergenceError, TrainingRecord, train_phase
from drorae.training.step import Stepper
from drorae.trial.shared import open_workshop

Run = Callable[..., tuple[list[dict[str, Any]], str]]


@pytest.fixture(scope="module")
def run(config: TrialConfig, runtime: Runtime) -> Run:
    """Trains phase 1 of the smallest trial; returns what was reported, and the digest of the decoder."""
    workshop = open_workshop(dataclasses.replace(config, phase1=PhaseConfig(epochs=0)), runtime)

    def train(
        checkpoint: Path,
        report: Callable[[dict[str, Any]], None] = lambda row: None,
        checkpoint_seconds: float = 0,
        **settings: Any,
    ) -> Any:
        tokenizer = build_tokenizer(config, workshop.encoder)
        rows: list[dict[str, Any]] = []
        phase = dataclasses.replace(config, phase1=dataclasses.replace(config.phase1, **settings)).phases[0]

        def note(row: dict[str, Any]) -> None:
            rows.append(row)
            report(row)

        train_phase(
            tokenizer, phase, workshop.train, workshop.objective,
            seed=0, device=torch.device("cpu"), checkpoint=checkpoint,
            runtime=dataclasses.replace(runtime, checkpoint_seconds=checkpoint_seconds), report=note,
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


def test_training_goes_on_while_a_checkpoint_is_written_and_is_resumed_from_its_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of step 1 is written when step 3 is taken."""
    _, weights = run(tmp_path / "whole.pt")
    third, save = threading.Event(), checkpoints.save_checkpoint

    def slowly(path: Path, state: dict[str, Any]) -> None:
        assert third.wait(300)
        save(path, state)

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            third.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_checkpoint", slowly)
    # The first falls due at once, and none after it.
    due = iter([0.0, 1e9, 1e9])
    monkeypatch.setattr(loop, "seconds_between", lambda *how: next(due))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", stop)
    monkeypatch.undo()
    assert (load_checkpoint(tmp_path / "cut.pt") or {})["step"] == 1, "waited for"
    assert run(tmp_path / "cut.pt")[1] == weights


def test_what_a_kill_has_left_of_a_checkpoint_goes_with_the_next_sitting(run: Run, tmp_path: Path) -> None:
    """6.6 GB at the paper's size."""
    left, others = tmp_path / f".{'0f' * 16}.phase.pt", [tmp_path / ".x.phase.pt", tmp_path / f".{'0f' * 16}.other.pt"]
    for path in (left, *others):
        path.write_bytes(b"half")
    run(tmp_path / "phase.pt")
    assert not left.exists() and all(path.exists() for path in others)


def test_a_long_phase_reports_every_row_and_keeps_few(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short between two rows that are kept, as well."""
    monkeypatch.setattr(kept_rows, "MOST_ROWS", 3)
    whole, weights = run(tmp_path / "whole.pt", epochs=4)
    assert [row["step"] for row in whole] == list(range(1, 9)) and all("loss" in row for row in whole)
    assert [row["step"] for row in whole if kept_rows.is_kept(row)] == [3, 6, 8]

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", stop, epochs=4)
    saved = load_checkpoint(tmp_path / "cut.pt") or {}
    assert saved["step"] == 5 and [row["step"] for row in saved["rows"]] == [3]
    again, resumed = run(tmp_path / "cut.pt", epochs=4)
    assert [row["step"] for row in again] == [3, 6, 7, 8] and resumed == weights
    assert [(row["step"], row["loss"]) for row in again if kept_rows.is_kept(row)] == [
        (row["step"], row["loss"]) for row in whole if kept_rows.is_kept(row)
    ]


@pytest.mark.parametrize(
    ("least", "copied", "saved"),
    [
        (9, 0.0, [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (9, 0.5, [10, 60, 85]),
        (30, 0.5, [31, 81]),
        (9, 3.0, [10]),
        (0, 3.0, list(range(1, 100))),
    ],
)
def test_checkpoints_hold_training_up_for_a_fiftieth_of_the_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, copied: float, saved: list[int]
) -> None:
    """By a clock on which a step takes a second, and a checkpoint's copy as long as it says."""
    clock, steps, take = [0.0], [], Stepper.take

    def slowly(self: Stepper, step: int) -> dict[str, torch.Tensor]:
        clock[0] += 1
        return take(self, step)

    def save(self: CheckpointWriter, state: dict[str, Any]) -> None:
        steps.append(state["step"])
        clock[0] += copied

    monkeypatch.setattr(Stepper, "take", slowly)
    monkeypatch.setattr(CheckpointWriter, "save", save)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0]))
    rows, _ = run(tmp_path / "phase.pt", checkpoint_seconds=least, epochs=50)
    assert len(rows) == 100 and steps == saved
    # The first one's cost is known only once it is paid.
    assert least == 0 or len(saved) == 1 or copied * len(saved) <= 0.02 * clock[0]


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


def test_a_record_of_an_earlier_version_is_read_without_its_losses() -> None:
    """Of every step, which nothing reads any more."""
    tree = {"steps": 2, "seconds": 1.5, "cpu_seconds": 3.0, "losses": [0.5, 0.25], "rows": [{"step": 2.0}]}
    assert vars(TrainingRecord.of(tree)) == vars(TrainingRecord(2, 1.5, 3.0, [{"step": 2.0}]))

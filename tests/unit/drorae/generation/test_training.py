"""A generator's training: interrupted or not it ends the same, in pieces or whole; its loss falls; its average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drorae.config import GENERATORS, TRAININGS, GeneratorRun, GeneratorTraining, Runtime
from drorae.errors import UserError
from drorae.generation.training import GeneratorStepper, TrainingLatents, early_step, rate_at
from drorae.generation.transformer import DiTDH
from drorae.models.weights import state_sha256
from drorae.training.checkpoint import load_checkpoint
from drorae.training.loop import DivergenceError, PhaseRun, TakesSteps

RUN = GeneratorRun(
    replace(GENERATORS["tiny"], early_depth=1), GeneratorTraining(2, 8, 3e-3, "linear", 1e-4, ema_decay=0.5)
)
RUNTIME = Runtime(device="cpu", threads=1, log_steps=1, checkpoint_seconds=0)
CPU = torch.device("cpu")


def latents(images: int = 32, labelled: bool = True) -> TrainingLatents:
    """Of two classes, at +1 and at -1; those of flips have another sign in their first channel."""
    chance = torch.Generator().manual_seed(0)
    labels = np.arange(images) % 2
    clean = torch.from_numpy(2.0 * labels - 1).float().view(-1, 1, 1, 1) + 0.1 * torch.randn(
        images, 3, 2, 2, generator=chance
    )
    both = torch.cat([clean, clean * torch.tensor([-1.0, 1, 1]).view(1, 3, 1, 1)])
    return TrainingLatents(images, lambda items: both[items], lambda found: found, labels if labelled else None)


def stepper(run: GeneratorRun = RUN, runtime: Runtime = RUNTIME) -> GeneratorStepper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = DiTDH(run.model, 3, 2, 2)
    return GeneratorStepper(model, run, latents(), CPU, runtime)


def trained(
    checkpoint: Path, run: GeneratorRun = RUN, report: Callable[[dict[str, Any]], None] = lambda row: None,
    runtime: Runtime = RUNTIME,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:  # fmt: skip
    rows: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        report(row)

    steps: TakesSteps = stepper(run, runtime)
    PhaseRun(steps, runtime, checkpoint, note).to_the_end()
    return rows, steps.module.state_dict()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path, precision: Any) -> None:
    run = replace(RUN, training=replace(RUN.training, precision=precision))
    whole, weights = trained(tmp_path / "whole.pt", run)
    assert [row["step"] for row in whole] == list(range(1, 9)) and {row["phase"] for row in whole} == {"generator"}

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut.pt", run, stop)
    assert (load_checkpoint(tmp_path / "cut.pt") or {})["step"] == 3
    again, resumed = trained(tmp_path / "cut.pt", run)
    assert state_sha256(resumed) == state_sha256(weights)
    assert [(row["step"], row["loss"], row["lr"]) for row in again] == [
        (row["step"], row["loss"], row["lr"]) for row in whole
    ]


def test_a_generator_learns_and_its_second_output_with_it(tmp_path: Path) -> None:
    run = replace(RUN, training=GeneratorTraining(40, 32, 3e-3, ema_decay=0.9))
    rows, _ = trained(tmp_path / "toy.pt", run)
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["final_loss"] + rows[-1]["early_loss"], rel=1e-5)
    # Where nothing is learned a loss is that of v_hat = 0, |v|^2 = 2.
    assert rows[0]["final_loss"] == pytest.approx(2, abs=0.4)
    assert np.mean([row["final_loss"] for row in rows[-5:]]) < 1.2
    assert np.mean([row["early_loss"] for row in rows[-5:]]) < 1.6


def test_pieces_of_a_batch_make_the_same_training(tmp_path: Path) -> None:
    whole, weights = trained(tmp_path / "whole.pt")
    pieces, same = trained(tmp_path / "pieces.pt", runtime=replace(RUNTIME, micro_batch=3))
    assert [row["loss"] for row in pieces] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-2, atol=1e-4)


def test_what_is_handed_on_is_the_average_of_the_weights() -> None:
    steps = stepper()
    expected = {name: value.detach().clone() for name, value in steps.module.named_parameters()}
    for step in range(3):
        steps.take(step)
        for name, value in steps.module.named_parameters():
            expected[name] = 0.5 * expected[name] + 0.5 * value.detach()
    handed_on = steps.weights()
    for name, value in expected.items():
        torch.testing.assert_close(handed_on[name], value)
    assert handed_on.keys() == steps.module.state_dict().keys()


def test_every_image_comes_once_an_epoch_and_half_of_them_flipped() -> None:
    steps = stepper()
    epochs = [np.concatenate([steps.items(4 * epoch + step) for step in range(4)]) for epoch in range(20)]
    assert all(sorted(items % 32) == list(range(32)) for items in epochs)
    assert np.mean(np.concatenate(epochs) >= 32) == pytest.approx(0.5, abs=0.06)
    assert not np.array_equal(epochs[0], epochs[1])


def test_rates_are_constant_and_then_fall_in_a_line() -> None:
    assert {rate_at(TRAININGS["drorae"], step, 1000) for step in (0, 500, 999)} == {1e-4}
    rae = TRAININGS["rae"]
    assert rate_at(rae, 0, 1600) == rate_at(rae, 80, 1600) == 2e-4 and rate_at(rae, 1599, 1600) == pytest.approx(2e-5)
    assert rate_at(rae, 80 + 1519 // 2, 1600) == pytest.approx(1.1e-4, rel=1e-2)
    with pytest.raises(UserError, match=r"^generator\.constant_epochs: 40 leaves none of generator\.epochs=40"):
        replace(rae, epochs=40).check()


def test_the_bad_model_is_as_early_as_rae_s() -> None:
    assert early_step(80) == 14 and early_step(1) == 1


def test_a_training_that_diverges_names_the_rate(tmp_path: Path) -> None:
    run = replace(RUN, training=replace(RUN.training, lr=1e30, clip_norm=0.0))
    with pytest.raises(DivergenceError, match=r"^generator: .* lower generator\.lr$"):
        trained(tmp_path / "run.pt", run)


def test_a_generator_learns_from_texts_and_pieces_of_a_batch_make_the_same_training() -> None:
    """The latents are at +1 or at -1, and only the text says which."""
    config = replace(GENERATORS["tiny"], condition="text", text_encoder="any", text_tokens=3, class_dropout=0.0)
    run = GeneratorRun(config, GeneratorTraining(40, 32, 1e-2, ema_decay=0.9))
    data = latents()
    assert data.labels is not None
    # The second token is there of one kind of image alone.
    states = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    states[0, 1:], states[1, 2:] = 0, 0
    told = replace(data, texts=lambda images: states[data.labels[images]])

    def losses(given: TrainingLatents, steps: int, micro_batch: int = 0) -> list[float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DiTDH(config, 3, 2, 0, 5)
        stepper = GeneratorStepper(model, run, given, CPU, replace(RUNTIME, micro_batch=micro_batch))
        return [float(stepper.take(step)["loss"]) for step in range(steps)]

    whole = losses(told, run.training.epochs)
    mute = losses(replace(data, texts=lambda images: torch.zeros(len(images), 3, 5)), run.training.epochs)
    assert np.mean(whole[-5:]) < np.mean(mute[-5:]) - 0.15
    assert losses(told, 4, 5) == pytest.approx(whole[:4], rel=1e-4)
    with pytest.raises(UserError, match=r"needs captions, and the images have none; put NAME\.txt beside"):
        losses(data, 1)


def test_classes_need_labels() -> None:
    with pytest.raises(UserError, match=r"use generator\.condition=none$"):
        GeneratorStepper(DiTDH(RUN.model, 3, 2, 2), RUN, latents(labelled=False), CPU, RUNTIME)

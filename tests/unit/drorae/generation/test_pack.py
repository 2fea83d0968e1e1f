"""Generators of a pack: the gradients and losses of each are those that it has alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from drorae.config import GENERATORS, GeneratorRun, GeneratorTraining, Runtime
from drorae.generation import pack
from drorae.generation.training import GeneratorStepper, TrainingLatents
from drorae.generation.transformer import DiTDH

IMAGES, TOKENS, TEXT_WIDTH = 16, 3, 5
TRAINING = GeneratorTraining(2, 8, 1e-3, ema_decay=0.5)
MODELS = {
    "classes and a second output": replace(GENERATORS["tiny"], early_depth=1),
    "nothing told": replace(GENERATORS["tiny"], condition="none"),
    "texts": replace(GENERATORS["tiny"], condition="text", text_encoder="here", text_tokens=TOKENS),
    "x predicted": replace(GENERATORS["tiny"], prediction="x"),
}


def steppers(run: GeneratorRun, micro_batch: int = 0) -> list[GeneratorStepper]:
    """Three generators of other weights, on other latents of the same images."""
    chance = torch.Generator().manual_seed(0)
    texts = torch.randn(IMAGES, TOKENS, TEXT_WIDTH, generator=chance)
    made = []
    for number in range(3):
        torch.manual_seed(run.seed)
        model = DiTDH(run.model, 6, 2, 4, TEXT_WIDTH)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=chance))
        both = torch.randn(2 * IMAGES, 6, 2, 2, generator=chance)
        latents = TrainingLatents(
            IMAGES, lambda items, both=both: both[items], lambda found, scale=number + 1: found / scale,
            np.arange(IMAGES) % 4, lambda items: texts[torch.from_numpy(items)],
        )  # fmt: skip
        made.append(GeneratorStepper(model, run, latents, torch.device("cpu"), Runtime(micro_batch=micro_batch)))
    return made


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("model", MODELS)
def test_each_has_the_losses_and_gradients_that_it_has_alone(model: str, micro_batch: int) -> None:
    run = GeneratorRun(MODELS[model], TRAINING, 1)
    alone, together = steppers(run), steppers(run, micro_batch)
    expected = [stepper.take(0) for stepper in alone]
    found = pack.take_step(together, 0)
    for one, other, stepper, beside in zip(expected, found, alone, together, strict=True):
        assert one.keys() == other.keys() == ({"loss", "final_loss", "early_loss"} if "second" in model else {"loss"})
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
        # Clipped alike, as each has a norm of its own.
        for parameter, its in zip(stepper.parameters, beside.parameters, strict=True):
            torch.testing.assert_close(its.grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_their_averages_move_as_they_do_alone() -> None:
    run = GeneratorRun(MODELS["nothing told"], replace(TRAINING, lr=1e-5), 0)
    alone, together = steppers(run), steppers(run)
    for step in range(3):
        for stepper in alone:
            stepper.take(step)
        pack.take_step(together, step)
    for stepper, beside in zip(alone, together, strict=True):
        torch.testing.assert_close(beside.weights(), stepper.weights(), rtol=1e-5, atol=1e-5)


def test_memory_that_runs_out_halves_the_images_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run = GeneratorRun(MODELS["nothing told"], TRAINING, 0)
    alone, together, losses = steppers(run), steppers(run), pack.flow_loss

    def full(model: Any, config: Any, clean: torch.Tensor, *more: Any) -> Any:
        if len(clean) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, config, clean, *more)

    monkeypatch.setattr(pack, "flow_loss", full)
    expected = [stepper.take(0)["loss"] for stepper in alone]
    with pytest.warns(UserWarning, match="generator of 3 trials, step 1: out of memory"):
        found = pack.take_step(together, 0)
    assert [stepper.micro_batch for stepper in together] == [4, 4, 4]
    torch.testing.assert_close([losses["loss"] for losses in found], expected, rtol=1e-5, atol=1e-6)

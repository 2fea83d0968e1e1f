"""Several trials trained in lock-step: fusions before one frozen decoder, whose common work is done for all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from drorae.training.loop import DivergenceError, PhaseRun, TakesSteps, seeded_steps
from drorae.training.step import Moves, Stepper, Sums, retry_smaller

S = TypeVar("S", bound=TakesSteps)


class StepsTogether(Moves, Protocol):
    """What takes its step in two halves, between which its gradients are made beside others'."""

    @property
    def name(self) -> str:
        """What messages call it, such as phase2."""

    def begin(self, step: int) -> None:
        """Sets what depends on the step's number (counted from 0)."""

    def move(self, where: str) -> None:
        """Moves the weights by the gradients that they have."""


def train_together(
    runs: Sequence[PhaseRun[S]], take: Callable[[Sequence[S], int], list[dict[str, Tensor]]]
) -> list[PhaseRun[S]]:
    """Takes the steps that trainings of several trials still lack; returns those that came to their end.

    Each ends with the weights that it would have alone, up to rounding. Those that are behind, after a kill between two
    checkpoints, first catch up. One that diverges leaves the others, and comes to no end.

    Args:
        runs: the trainings, of equally many steps.
        take: takes a step (counted from 0) of several of them, and returns the losses of each.

    Raises:
        UserError: memory does not hold one image of each.
    """
    left = list(runs)
    for run in left:
        # A limit of images at once is one of all trials' together.
        if run.stepper.micro_batch < run.stepper.share:
            run.stepper.micro_batch = max(1, run.stepper.micro_batch // len(left))
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(run)
        stack.enter_context(seeded_steps(runs[0].stepper.device))
        while behind := [run for run in left if not run.done]:
            step = min(run.record.steps for run in behind)
            taking = [run for run in behind if run.record.steps == step]
            for run, losses in zip(taking, take([run.stepper for run in taking], step), strict=True):
                try:
                    run.note(losses)
                except DivergenceError:
                    left.remove(run)
    for run in left:
        run.end()
    return left


def take_step(steppers: Sequence[Stepper], step: int) -> list[dict[str, Tensor]]:
    """Takes a step (counted from 0) of phase 2 of several trials; the losses of each by name.

    They have seed, images, objective, frozen decoder, batches and epochs in common, and differ in their fusions and
    learning rates.

    Raises:
        UserError: memory does not hold one image of each.
    """
    # Whoever reads most layers reads for all: every fusion picks its own.
    reader = max(steppers, key=lambda stepper: stepper.depth)
    return step_together(steppers, reader, step, lambda piece: _gradients(steppers, reader, step, piece))


def step_together(
    steppers: Sequence[StepsTogether],
    reader: StepsTogether,
    step: int,
    gradients: Callable[[int], list[dict[str, Tensor]]],
) -> list[dict[str, Tensor]]:
    """Takes a step (counted from 0) of several trainings, with fewer images at once where memory runs out.

    Args:
        steppers: of them all.
        reader: the one of them whose micro-batch is all others'.
        step: which.
        gradients: gradients(piece) leaves all their gradients, `piece` images of each at once, and returns the losses.

    Raises:
        UserError: memory does not hold one image of each.
    """
    where = f"{reader.name} of {len(steppers)} trials, step {step + 1}"

    def attempt(piece: int) -> list[dict[str, Tensor]]:
        for stepper in steppers:
            stepper.optimiser.zero_grad(set_to_none=True)
        return gradients(piece)

    for stepper in steppers:
        stepper.begin(step)
    losses = retry_smaller(reader, where, attempt)
    for stepper in steppers:
        stepper.micro_batch = reader.micro_batch
        stepper.move(where)
    return losses


def _gradients(steppers: Sequence[Stepper], reader: Stepper, step: int, piece: int) -> list[dict[str, Tensor]]:
    """Adds the gradients of every trial's loss, `piece` images of each at once; moves no weight."""
    sums = [Sums() for _ in steppers]
    for part in reader.pieces(step, piece):
        with reader.autocast:
            read = reader.on_device(reader.read(part.batch))
            latents = torch.cat([stepper.tokenizer.latent(read, reader.phase.fused) for stepper in steppers])
            if part.noise is not None:
                latents = latents + part.noise.repeat(len(steppers), 1, 1)
            painted = torch.split(reader.tokenizer.decode(latents), part.size)
        losses = reader.losses(part, painted)
        share = part.size / reader.share
        for total, found in zip(sums, losses, strict=True):
            total.add(found, share)
        # Of every trial's loss only its own fusion has a gradient.
        torch.autograd.backward(torch.stack([found["loss"] for found in losses]).sum() * share)
    return list(sums)

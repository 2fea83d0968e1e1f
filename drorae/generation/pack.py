"""Generators of several trials trained in lock-step: their layers become batched products of all.

A small generator keeps a GPU waiting for launches, of which a pack needs as many as one generator. Where one fills the
machine, a pack is no faster than one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from drorae.generation.training import GeneratorStepper, Piece, named
from drorae.generation.transformer import Prediction
from drorae.generation.transport import FlowLoss, flow_loss
from drorae.training.pack import step_together
from drorae.training.step import Sums


def take_step(steppers: Sequence[GeneratorStepper], step: int) -> list[dict[str, Tensor]]:
    """Takes a step (counted from 0) of several generators; the losses of each by name.

    They have their `GeneratorRun`, images and conditions in common, and differ in their latents and weights.

    Raises:
        UserError: memory does not hold one image of each.
    """
    return step_together(steppers, steppers[0], step, lambda piece: _gradients(steppers, step, piece))


def _gradients(steppers: Sequence[GeneratorStepper], step: int, piece: int) -> list[dict[str, Tensor]]:
    """Adds the gradients of every generator's loss, `piece` images of each at once; moves no weight."""
    first, sums = steppers[0], [Sums() for _ in steppers]
    for part in first.pieces(step, piece):
        clean = torch.stack([stepper.clean(part) for stepper in steppers])
        with first.autocast, _batched_attention(first.device):
            found = _losses(steppers, part, clean)
        for number, total in enumerate(sums):
            total.add({name: values[number] for name, values in found.items()}, part.share)
        # Each loss has a gradient in its own generator alone.
        torch.autograd.backward(found["loss"].sum() * part.share)
    return list(sums)


def _losses(steppers: Sequence[GeneratorStepper], part: Piece, clean: Tensor) -> dict[str, Tensor]:
    """The losses [G] of G generators on a piece, whose latents are clean [G, b, C, S, S], by name."""
    first = steppers[0]
    states = [dict(stepper.module.named_parameters()) for stepper in steppers]
    # The way back through the stack takes each generator's gradient to its own parameters.
    weights = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    # Tables and frequencies: alike in all, which have a seed in common.
    buffers = dict(first.module.named_buffers())

    def one(weights: dict[str, Tensor], clean: Tensor) -> dict[str, Tensor]:
        def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
            return cast("Prediction", functional_call(first.module, (weights, buffers), (noisy, t, given)))

        found: FlowLoss = flow_loss(model, first.run.model, clean, part.given, part.null, part.draws)
        return named(found)

    every: Any = vmap(one)(weights, clean)
    return cast("dict[str, Tensor]", every)


def _batched_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On a CPU, attention by plain products: its fused kernel would take one generator after the other."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()

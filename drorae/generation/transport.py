"""Flow matching between latents and noise: the path, its times, what is predicted, and the loss.

The path is linear, x_t = (1 - t) x + t eps, from the latent at t = 0 to noise at t = 1, and its velocity
v = eps - x (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003; RAE, arXiv 2510.11690; the "v-prediction"
of DRoRAE, arXiv 2605.10780). Latents are normalised (`drorae.diagnostics.latents`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drorae.config import GeneratorConfig
from drorae.generation.transformer import Prediction

Model = Callable[[Tensor, Tensor, Tensor | None], Prediction]
"""x_t [B, C, S, S], times [B], what is given [B, ...] or None -> what is predicted: a `DiTDH`, wrapped or not."""
SHIFT_BASE = 4096
"""Elements of a latent that needs no shift: RAE, after Stable Diffusion 3 (arXiv 2403.03206, Sec. 5.3.2)."""
LEAST_TIME = 0.05
"""What a velocity made of a predicted latent is divided by at least (RAEv2's t_eps, its src/stage2/transport)."""


def time_shift(config: GeneratorConfig, elements: int) -> float:
    """Returns a of t -> a t / (1 + (a - 1) t) for latents of so many elements, channels times positions.

    RAE's sqrt(elements / 4096), 6.93 at 16 x 16 x 768, where the config names none; 1 for smaller latents, as RAE's
    code takes none below.
    """
    return config.shift or max(1.0, math.sqrt(elements / SHIFT_BASE))


def shifted(t: Tensor, shift: float) -> Tensor:
    """Moves times towards the noise, 0 and 1 staying where they are (RAE; arXiv 2403.03206, Sec. 5.3.2)."""
    return shift * t / (1 + (shift - 1) * t)


def like_images(t: Tensor, latents: Tensor) -> Tensor:
    """Times [B] in the shape [B, 1, ...] that multiplies latents."""
    return t.view(-1, *(1,) * (latents.ndim - 1))


def draw_times(config: GeneratorConfig, count: int, shift: float, chance: torch.Generator) -> Tensor:
    """Draws times of training [count] in float32, on the generator's device.

    RAE's code cuts them at 0.999 before the shift, which one logit-normal time in 4e11 exceeds; here nothing is cut.
    """
    if config.times == "uniform":
        t = torch.rand(count, generator=chance, device=chance.device)
    else:
        t = torch.randn(count, generator=chance, device=chance.device).sigmoid()
    return shifted(t, shift)


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Returns x_t [B, ...] of latents and noise at times [B]."""
    time = like_images(t, clean)
    return (1 - time) * clean + time * noise


def velocity(config: GeneratorConfig, predicted: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Makes a velocity of what a generator predicted at x_t: itself, or (x_t - x) / max(t, 0.05) of a latent x.

    The latter is RAEv2's: (x_t - x) / t is the velocity of the straight line to x.
    """
    if config.prediction == "v":
        return predicted
    return (noisy - predicted) / like_images(t, noisy).clamp_min(LEAST_TIME)


class FlowLoss(NamedTuple):
    """Means over images and elements."""

    total: Tensor
    """What is minimised: final + `early_weight` x early."""
    final: Tensor
    """|v - v_hat|^2 per element; of x-prediction |x - x_hat|^2 / max(t, 0.05)^2."""
    early: Tensor | None
    """The second output's; None where there is none."""


class Draws(NamedTuple):
    """What is random in the loss of a batch."""

    t: Tensor
    """Times [B], float32."""
    noise: Tensor
    """[B, C, S, S], float32."""
    hidden: Tensor | None
    """Of which images [B] the condition is hidden; None where nothing is given."""

    def part(self, chosen: slice) -> Draws:
        """Returns those of some of the images."""
        hidden = None if self.hidden is None else self.hidden[chosen]
        return Draws(self.t[chosen], self.noise[chosen], hidden)


def draw(config: GeneratorConfig, shape: Sequence[int], given: bool, chance: torch.Generator) -> Draws:
    """Draws times, then noise, then which conditions are hidden, for latents of a shape [B, C, S, S].

    All are on the device of `chance`; `given` says whether there is a condition.
    """
    t = draw_times(config, shape[0], time_shift(config, math.prod(shape[1:])), chance)
    noise = torch.randn(tuple(shape), generator=chance, device=chance.device)
    hidden = None
    if given:
        hidden = torch.rand(shape[0], generator=chance, device=chance.device) < config.class_dropout
    return Draws(t, noise, hidden)


def flow_loss(
    model: Model, config: GeneratorConfig, clean: Tensor, given: Tensor | None, null: Tensor | None, draws: Draws
) -> FlowLoss:
    """Measures a generator on a batch at random times.

    Args:
        model: the generator.
        config: prediction, weight of the second output.
        clean: normalised latents [B, C, S, S].
        given: what it is told of each, [B, ...]; None: nothing.
        null: what stands for nothing said, [B, ...] (`Condition.null`); None where nothing is given.
        draws: times, noise and hidden conditions of these images.
    """
    t, noise = draws.t.to(clean), draws.noise.to(clean)
    if given is not None and null is not None and draws.hidden is not None:
        given = torch.where(like_images(draws.hidden.to(given.device), given), null, given)
    noisy = noised(clean, noise, t)
    # Of a latent this is v itself, but for times below LEAST_TIME, where target and prediction are cut alike.
    target = noise - clean if config.prediction == "v" else velocity(config, clean, noisy, t)

    def loss(predicted: Tensor) -> Tensor:
        return (velocity(config, predicted.float(), noisy, t) - target).square().mean()

    found = model(noisy, t, given)
    final = loss(found.final)
    if found.early is None:
        return FlowLoss(final, final, None)
    early = loss(found.early)
    return FlowLoss(final + config.early_weight * early, final, early)

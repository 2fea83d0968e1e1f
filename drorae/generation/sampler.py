"""Sampling: from noise at t = 1 to a latent, along a velocity field.

An image's noise is a function of (seed, index) alone, so any subset of images is drawn again on any number of
processes. The noise is the same to the bit. So is the latent where the same images are drawn together on the same
machine; in another batch the last bits of matrix products differ, and it is the same within the tolerance of floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drorae.errors import UserError
from drorae.generation.guidance import Field
from drorae.generation.transport import shifted

Method = Literal["euler", "heun"]
"""euler: one velocity a step, error of order 1; heun: two, the mean of the step's ends, of order 2."""
RAE_END = 1e-3
"""Where RAE's grid ends before the shift (its src/stage2/transport/transport.py: t1 = 1 - 1 / 1000)."""


def time_grid(steps: int, shift: float, end: float = 0.0) -> list[float]:
    """Returns the steps + 1 times of a sampler of so many steps, evenly spaced from 1 to `end` and then shifted.

    Raises:
        UserError: less than one step.
    """
    if steps < 1:
        raise UserError(f"sampling steps: {steps} takes none; give 1 or more")
    return [float(time) for time in shifted(torch.linspace(1, end, steps + 1, dtype=torch.float64), shift)]


def rae_time_grid(points: int, shift: float) -> list[float]:
    """Returns RAE's times: its `num_steps`, 50 as published, counts points of the grid, so that 49 steps are taken.

    They end at 0.001 before the shift, 0.0069 after that of 16 x 16 x 768, and what noise is left there stays.
    RAEv2's 50 are steps, to 0: `time_grid(50, shift)`. The DRoRAE paper's 250 are either.

    Raises:
        UserError: less than two points.
    """
    return time_grid(points - 1, shift, RAE_END)


def initial_noise(indices: Sequence[int], shape: Sequence[int], seed: int = 0) -> Tensor:
    """Draws the noise [B, *shape] of images by their indices, float32 on the CPU, each from a generator of its own."""
    drawn = []
    for index in indices:
        state = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
        drawn.append(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(state)))
    return torch.stack(drawn)


@torch.no_grad()
def integrate(field: Field, noise: Tensor, times: Sequence[float], method: Method = "euler") -> Tensor:
    """Follows dx/dt = v from noise [B, ...] at the first time to the last one.

    Args:
        field: the velocities, guided or not.
        noise: where it starts; its type and device are those of all steps.
        times: falling, one more than steps (`time_grid`).
        method: euler, or heun, which also evaluates the field at the last time.
    """
    x = noise
    for now, then in pairwise(times):
        slope = field(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
        ahead = x + (then - now) * slope
        if method == "heun":
            end = field(ahead, torch.full((len(x),), then, dtype=x.dtype, device=x.device))
            ahead = x + (then - now) * (slope + end) / 2
        x = ahead
    return x

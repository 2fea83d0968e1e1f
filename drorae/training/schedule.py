"""Learning rates, and the random numbers of a step, as functions of the step's number alone."""

from __future__ import annotations

import math

import numpy as np

from drorae.config import PhaseConfig


def learning_rate(settings: PhaseConfig, step: int, total: int) -> float:
    """Linear warm-up from 0 over `warmup_steps`, then a cosine from `lr` to `final_lr` at the last step."""
    warmup = min(settings.warmup_steps, total // 2)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(total - 1 - warmup, 1)
    return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * share)) / 2


def epoch_order(seed: int, phase: int, epoch: int, count: int) -> np.ndarray:
    """The order of items in an epoch: a function of these four numbers alone, so that resuming needs no state."""
    return np.random.default_rng([seed, phase, epoch]).permutation(count)


def step_seed(seed: int, phase: int, step: int) -> int:
    """A seed for what is random within a step: a function of these numbers alone."""
    return int(np.random.SeedSequence([seed, phase, step, 0]).generate_state(1)[0])

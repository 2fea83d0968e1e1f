"""How large a trial is beside others of its sweep, and how much of it is done at a row of progress.

Loads neither torch nor timm: a driver asks every second.
"""

from __future__ import annotations

import functools

from drorae.config import TrialConfig
from drorae.errors import UserError
from drorae.machine.generator import rough_generator
from drorae.machine.needs import ANYWHERE, guessed_shape, rough_needs
from drorae.metrics.registry import guided

LOADING = ("", "starting", "prepare", "phase1")
"""What rows of progress call what comes before a trial's own phases."""
PHASES = ("phase2", "phase3")


def trial_flops(config: TrialConfig) -> float:
    """Returns the floating-point operations of phases 2 and 3 and of the generator, for comparing a sweep's trials.

    The evaluation of the tokenizer and cached features are left out. Never raises.
    """
    return sum(_stages(config).values())


def share_done(config: TrialConfig, phase: str, step: float, total_steps: float) -> float | None:
    """Returns the share of a trial's training, and of its generator, that is done at a row; None before training.

    Args:
        config: the trial.
        phase: the row's.
        step: the row's, or what it says is done.
        total_steps: of how many; 0: the row does not say.
    """
    if phase in LOADING or (phase in PHASES and total_steps <= 0):
        return None
    stages = _stages(config)
    total = sum(stages.values())
    if phase == "evaluation":
        # Of the tokenizer, between its phases and its generator.
        done = sum(flops for name, flops in stages.items() if name in PHASES)
    elif phase in stages:
        names = list(stages)
        within = min(step / total_steps, 1.0) if total_steps > 0 else 0.0
        done = sum(stages[name] for name in names[: names.index(phase)]) + within * stages[phase]
    else:
        # The probe and the inspection come last.
        done = total
    return done / total if total else 1.0


@functools.lru_cache(maxsize=4096)
def _stages(config: TrialConfig) -> dict[str, float]:
    """The floating-point operations of what a trial does itself, in order, by what its rows of progress call it."""
    needs = rough_needs(config, ANYWHERE, guessed_shape(config.encoder.name))
    stages = {phase.name: phase.flops for phase in needs.phases if phase.name in PHASES}
    try:
        generator = rough_generator(config, ANYWHERE)
    except UserError:
        # The trial is refused before it trains anything.
        generator = None
    if generator is None:
        return stages
    stages |= {"latents": generator.latent_flops, "generator": generator.train_flops}
    stages["controls"] = generator.control_flops
    for number, drawing in enumerate(generator.drawings):
        prefix = guided(drawing.guidance) if number else ""
        stages |= {f"{prefix}sampling": drawing.draw_flops, f"{prefix}measuring": drawing.measure_flops}
    return stages

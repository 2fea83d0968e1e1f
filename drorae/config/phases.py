"""The phases of a trial as one list: which parts each trains, what the decoder reads, what the parts start from.

Published are three (arXiv 2605.10780, Sec. 3.3): the decoder on z_base, the fusion before the frozen decoder, the
decoder on the fusion's latent. A config gives another list: joint training of fusion and decoder is a phase 2 with
`trains=fusion,decoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from drorae.config.checked import Checked, Count, Decay, Positive, Weight
from drorae.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]
Module = Literal["fusion", "decoder", "encoder"]
"""A part of the tokenizer that a phase can train."""
PARTS: tuple[Module, ...] = ("fusion", "decoder", "encoder")
"""In the order in which they are named."""
WITHOUT_WEIGHTS = ("last", "mean", "mean_dc")
"""Variants of the fusion that have no parameters, so that no phase trains them."""


@dataclass(frozen=True)
class PhaseConfig(Checked):
    """What one phase trains, and how it is optimised."""

    epochs: Count
    batch_size: Positive = 64
    lr: Weight = 1e-3
    lr_width: Count = 0
    """Expert hidden dim that `lr` is meant for: a fusion of another h that this phase trains has the rate
    lr (lr_width / h)^0.3 (`WIDTH_POWER`); 0: `lr` whatever h."""
    final_lr: Weight = 1e-5
    warmup_steps: Count = 20
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Weight = 0.0
    clip_norm: Weight = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: Decay = 0.0
    """Decay of the weight average that is evaluated and handed on; 0: the weights themselves."""
    latent_noise: Weight = 0.0
    """tau: sigma ~ U(0, tau) per sample of Gaussian noise on the latent (RAE: 0.8 while the decoder trains)."""
    disc_start_steps: Count = 0
    """The discriminator learns from this step on."""
    gan_start_steps: Count = 0
    """The tokenizer's loss has its adversarial term from this step on: after `disc_start_steps`, so that fresh heads
    are never heard."""
    precision: Precision = "fp32"
    """Of matrix products; weights and sums are float32. auto: bf16 where the machine that starts the run has
    instructions for it, else fp32; what it stood for is part of a trial's identity (`drorae.machine.precision`)."""
    disc_from: Literal["fresh", "phase1", "phase2"] = "fresh"
    """fresh: a discriminator with fresh heads; phase1, phase2: that phase's, with its optimiser begun anew.
    The paper has one discriminator for phases 1 to 3 (Table 5) and does not say what becomes of it between them."""
    trains: tuple[Module, ...] = ()
    """Parts that are trained together; empty: the published one, the fusion in phase 2, the decoder in 1 and 3."""
    latent: Literal["auto", "base", "fused"] = "auto"
    """What the decoder reads: z_base, or the fusion's latent; auto: as published, base in phase 1, fused after it."""
    start: Literal["trained", "fresh"] = "trained"
    """What the parts start from: what the phases before made of them, or a new initialisation (the encoder: its
    pretrained weights)."""


WIDTH_POWER = 0.3
"""How the rate that a fusion learns best at falls with the hidden width of its experts (results/quickstart/README.md:
8e-3 at h = 4, 2e-3 at h = 360)."""
UNTRAINED = PhaseConfig(epochs=0)
"""A phase that is left out."""


@dataclass(frozen=True)
class Phase:
    """One phase, as a config declares it."""

    name: Literal["phase1", "phase2", "phase3"]
    number: int
    trains: tuple[Module, ...]
    """Parts whose parameters move; all others are frozen."""
    latent: Literal["base", "fused"]
    """What the decoder reads: z_base, or the fusion's latent."""
    settings: PhaseConfig

    @property
    def fused(self) -> bool:
        """Whether the decoder reads the fusion's latent."""
        return self.latent == "fused"

    @property
    def fresh(self) -> bool:
        """Whether its parts are initialised anew when it begins."""
        return self.settings.start == "fresh"


def _declared(usual: Phase, hidden: int) -> Phase:
    settings = usual.settings
    trains = tuple(part for part in PARTS if part in settings.trains) or usual.trains
    if settings.lr_width and "fusion" in trains:
        settings = replace(settings, lr=settings.lr * (settings.lr_width / hidden) ** WIDTH_POWER)
    latent = usual.latent if settings.latent == "auto" else settings.latent
    return Phase(usual.name, usual.number, trains, latent, settings)


def declared(phase1: PhaseConfig, phase2: PhaseConfig, phase3: PhaseConfig, hidden: int) -> tuple[Phase, Phase, Phase]:
    """Returns the three phases; what a config leaves open is as published (arXiv 2605.10780, Sec. 3.3).

    Their settings have the learning rate that holds for experts of width `hidden`.
    """
    return (
        _declared(Phase("phase1", 1, ("decoder",), "base", phase1), hidden),
        _declared(Phase("phase2", 2, ("fusion",), "fused", phase2), hidden),
        _declared(Phase("phase3", 3, ("decoder",), "fused", phase3), hidden),
    )


def trained_parts(phases: Sequence[Phase]) -> tuple[Module, ...]:
    """Returns the parts that some of these phases train, for at least one epoch."""
    trained = {part for phase in phases if phase.settings.epochs for part in phase.trains}
    return tuple(part for part in PARTS if part in trained)


def check_phases(phases: tuple[Phase, Phase, Phase], variant: str) -> None:
    """Checks that phases can be trained as they are declared, with a fusion of this variant.

    Raises:
        UserError: a part is named twice; phase 1 would train more than the decoder, or on a latent that is still to be
            learned; a phase would train a fusion that the decoder does not read.
    """
    for phase in phases:
        if len(set(phase.settings.trains)) < len(phase.settings.trains):
            raise UserError(f"{phase.name}.trains: {','.join(phase.settings.trains)} names one twice; name each once")
    shared, *own = phases
    if shared.trains != ("decoder",):
        raise UserError(
            "phase1.trains: all trials of a sweep share phase 1, which trains the decoder alone; set phase1.epochs=0 "
            f"and phase2.trains={','.join(shared.trains)}"
        )
    if shared.fused and variant not in WITHOUT_WEIGHTS:
        raise UserError(
            f"phase1.latent: the fusion {variant} has learned nothing yet in phase 1; leave it at base, or use "
            f"fusion.variant={', '.join(WITHOUT_WEIGHTS)}"
        )
    if shared.fresh:
        raise UserError("phase1.start: phase 1 begins with a new decoder as it is; leave it at trained")
    for phase in own:
        if "fusion" in phase.trains and not phase.fused:
            raise UserError(f"{phase.name}.latent: a fusion that the decoder does not read learns nothing; use fused")


def check_discriminators(phases: Sequence[Phase], variant: str, released: bool) -> None:
    """Checks that no phase hears a discriminator that has not learned, or that there is not.

    Args:
        phases: all of a trial.
        variant: of the fusion.
        released: whether a released decoder takes the place of phase 1.

    Raises:
        UserError: one does.
    """
    trained: list[str] = []
    for phase in phases:
        settings = phase.settings
        if not settings.epochs or (phase.number == 1 and released):
            continue
        if settings.disc_from not in ("fresh", *trained):
            earlier = " or ".join(["fresh", *trained])
            raise UserError(
                f"{phase.name}.disc_from: no {settings.disc_from} is trained before {phase.name}; use {earlier}"
            )
        if settings.disc_from == "fresh" and settings.gan_start_steps <= settings.disc_start_steps:
            raise UserError(
                f"{phase.name}.gan_start_steps: {settings.gan_start_steps} lets a discriminator be heard that learns "
                f"only from step {settings.disc_start_steps} on; give more, or go on with an earlier one "
                f"({phase.name}.disc_from)"
            )
        if phase.trains != ("fusion",) or variant not in WITHOUT_WEIGHTS:
            trained.append(phase.name)

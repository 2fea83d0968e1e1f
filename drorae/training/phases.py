"""The three phases (arXiv 2605.10780, Sec. 3.3) as declarations: what trains, and on which latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from drorae.config import PhaseConfig, TrialConfig
from drorae.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Phase:
    """One phase. The encoder is frozen in all of them."""

    name: Literal["phase1", "phase2", "phase3"]
    number: int
    trains: Literal["decoder", "fusion"]
    latent: Literal["base", "fused"]
    """What the decoder reads: z_base, or the fusion's latent."""

    def trained(self, tokenizer: Tokenizer) -> nn.Module:
        """The one module whose parameters move."""
        return tokenizer.decoder if self.trains == "decoder" else tokenizer.fusion

    def settings(self, config: TrialConfig) -> PhaseConfig:
        """This phase's part of a trial's config."""
        settings: PhaseConfig = getattr(config, self.name)
        return settings


PHASE1 = Phase("phase1", 1, trains="decoder", latent="base")
PHASE2 = Phase("phase2", 2, trains="fusion", latent="fused")
PHASE3 = Phase("phase3", 3, trains="decoder", latent="fused")


def freeze_all_but(tokenizer: Tokenizer, phase: Phase) -> nn.Module:
    """Sets which parameters take gradients and which modules are in training mode; returns the trained one."""
    tokenizer.requires_grad_(False).eval()
    return phase.trained(tokenizer).requires_grad_(True).train()

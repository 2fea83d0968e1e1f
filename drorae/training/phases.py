"""Which modules a phase trains, and the tokenizer made ready for it."""

from __future__ import annotations

from torch import nn

from drorae.config import Module, Phase
from drorae.models.tokenizer import Tokenizer


def part_of(tokenizer: Tokenizer, part: Module) -> nn.Module:
    """Returns the module that a part's name stands for; of the encoder the transformer, whose LN stays as it is."""
    modules: dict[Module, nn.Module] = {
        "fusion": tokenizer.fusion,
        "decoder": tokenizer.decoder,
        "encoder": tokenizer.encoder.vit,
    }
    return modules[part]


def trained(tokenizer: Tokenizer, phase: Phase) -> nn.Module:
    """Returns what a phase trains as one module: the part itself, or several by their names."""
    parts: dict[str, nn.Module] = {part: part_of(tokenizer, part) for part in phase.trains}
    return nn.ModuleDict(parts) if len(parts) > 1 else next(iter(parts.values()))


def freeze_all_but(tokenizer: Tokenizer, phase: Phase) -> nn.Module:
    """Sets which parameters take gradients and which modules are in training mode; returns what is trained."""
    tokenizer.requires_grad_(False).eval()
    return trained(tokenizer, phase).requires_grad_(True).train()

"""The weights that a trial's own phases train: their files in its folder, and their digests."""

from __future__ import annotations

from pathlib import Path

from drorae.config import Module, Phase, TrialConfig
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import state_sha256
from drorae.training.phases import part_of
from drorae.trial.folder import part_file


def has_weights(tokenizer: Tokenizer, part: Module) -> bool:
    """Says whether a part has parameters; some fusions have none."""
    return any(True for _ in part_of(tokenizer, part).parameters())


def phase_files(config: TrialConfig, phase: Phase, tokenizer: Tokenizer, directory: Path) -> dict[Module, Path]:
    """Returns where a phase leaves the parts that it trains.

    A part that a later phase goes on training has a file of each phase, so that either can be taken up again.
    """
    later = {part for other in config.phases[phase.number :] if other.settings.epochs for part in other.trains}
    return {
        part: directory / part_file(part, phase.name if part in later else "")
        for part in phase.trains
        if has_weights(tokenizer, part)
    }


def final_files(config: TrialConfig, fusion: bool, directory: Path) -> dict[Module, Path]:
    """Returns where the parts lie that a trial has trained, as they are in the end; `fusion`: that it has weights."""
    return {part: directory / part_file(part) for part in config.trained_parts if fusion or part != "fusion"}


def own_digests(config: TrialConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the SHA-256 of the parts that a trial's result is of, beside the phase-1 decoder."""
    parts: tuple[Module, ...] = ("fusion", *(part for part in config.trained_parts if part != "fusion"))
    return {part: state_sha256(part_of(tokenizer, part).state_dict()) for part in parts}

"""A discriminator's heads, kept after the phase that trained them, for a later phase to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from drorae.config import Phase, Runtime, TrialConfig
from drorae.errors import UserError
from drorae.models.weights import read_state, save_sealed
from drorae.runtime import distributed
from drorae.storage.cache import Cache
from drorae.storage.sealed import read_sealed
from drorae.training.adversary import Adversary
from drorae.trial.folder import HEADS


def heads_of(directory: Path, phase: str) -> Path:
    """Returns where a trial keeps the heads of one of its own phases."""
    return directory / f"{phase}.{HEADS}"


def keep_heads(path: Path, adversary: Adversary) -> None:
    """Writes the trained heads of an adversary."""
    save_sealed(path, adversary.network.state_dict())


def earlier_heads(
    config: TrialConfig, runtime: Runtime, fingerprints: Mapping[str, str], directory: Path, phase: Phase
) -> dict[str, Tensor] | None:
    """Returns the heads that a phase goes on with; None where it has fresh ones, or no discriminator.

    Args:
        config: the trial.
        runtime: where the cache is and the networks are.
        fingerprints: of the trial's workshop, for the place of its phase-1 decoder.
        directory: the trial's.
        phase: that begins.

    Raises:
        UserError: they are not there, or damaged.
    """
    name = phase.settings.disc_from
    if name == "fresh" or config.objective.gan_weight == 0:
        return None
    path = heads_of(directory, name)
    if name == config.phases[0].name:
        cache, place = Cache(runtime.cache_dir), f"decoders/{fingerprints['phase1_decoder']}/{HEADS}"
        path = cache / place
        if distributed.is_main():
            cache.fetch(place)
    lacking = distributed.is_main() and read_sealed(path, read_state) is None
    distributed.barrier()
    if lacking or not path.is_file():
        raise UserError(
            f"{phase.name}.disc_from={name}: its discriminator is not there ({path}); rename {path.parent}, and it is "
            f"trained again, or use {phase.name}.disc_from=fresh"
        )
    return read_state(path)

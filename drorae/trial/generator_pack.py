"""The generators of several trials, trained as one pack: alike in all but the latents that they learn."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from drorae.config import (
    GeneratorRun,
    Runtime,
    TrialConfig,
    canonical_json,
    config_hash,
    generator_identity,
    shared_key,
)
from drorae.errors import UserError
from drorae.generation.pack import take_step
from drorae.generation.training import GeneratorStepper
from drorae.machine.precision import settled
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import out_of_memory
from drorae.storage.files import naming_full_disk
from drorae.training.loop import Clock, PhaseRun, Report
from drorae.training.pack import train_together
from drorae.trial.folder import ENDED, read_outcome
from drorae.trial.generation import generator_run
from drorae.trial.generator import address, begin_generator, folder_of, needs_training
from drorae.trial.own_phases import is_trained, restore_phase
from drorae.trial.pack import silent
from drorae.trial.run import check_config, open_trial
from drorae.trial.shared import Workshop


@dataclass(frozen=True)
class _Member:
    """A trial of a pack."""

    directory: Path
    workshop: Workshop
    tokenizer: Tokenizer
    run: GeneratorRun

    @property
    def trial(self) -> str:
        """Its hash."""
        return config_hash(self.workshop.config)

    @property
    def kind(self) -> str:
        """What the members of a pack have in common: what is learned of which images, and how."""
        shared = shared_key(self.workshop.config)
        common = {name: shared[name] for name in ("images", "encoder")}
        return canonical_json(common | {"generator": generator_identity(self.run)})


def train_generators(
    trials: Mapping[Path, TrialConfig], report: Report = lambda row: None, *, runtime: Runtime | None = None
) -> list[Path]:
    """Trains the generators of trials together, and leaves in each one's folder what `run_trial` goes on from.

    A trial that has no generator, or one that is trained, whose own phases are not, that is at work elsewhere, or that
    cannot be opened, is left out; `run_trial` says why. A generator that diverges is left to it, too. Killed, a pack
    goes on from its generators' checkpoints, as each of them does alone.

    Args:
        trials: by folder. Those whose generators learn the same in the same way are trained together.
        report: called with rows of progress of the first of each pack.
        runtime: device, threads, cache.

    Returns:
        The folders of the trials whose generators were trained.

    Raises:
        UserError: memory does not hold one image of each, or a disk is full.
    """
    packs: dict[str, list[_Member]] = {}
    with contextlib.ExitStack() as stack:
        for directory, config in trials.items():
            if not config.generator.epochs:
                continue
            stack.enter_context(naming_full_disk(directory))
            with contextlib.suppress(UserError, Timeout):
                stack.enter_context(FileLock(directory / ".lock").acquire(timeout=0))
                if member := _open(directory, settled(config), runtime or Runtime(), report):
                    folder = folder_of(directory, address(member.trial, member.run))
                    folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(FileLock(folder / ".lock").acquire(timeout=0))
                    packs.setdefault(member.kind, []).append(member)
        return [folder for members in packs.values() if len(members) > 1 for folder in _train(members, report)]


def _open(directory: Path, config: TrialConfig, runtime: Runtime, report: Report) -> _Member | None:
    """A trial whose tokenizer is trained, and its generator is not; None of any other."""
    check_config(directory, config)
    if read_outcome(directory)["status"] in ENDED:
        return None
    workshop = open_trial(config, report, directory, runtime)
    tokenizer = workshop.tokenizer()
    for phase in config.phases[1:]:
        if phase.settings.epochs:
            if not is_trained(config, phase, tokenizer, directory):
                return None
            restore_phase(config, phase, tokenizer, directory)
    tokenizer.requires_grad_(False).eval()
    member = _Member(directory, workshop, tokenizer, generator_run(workshop))
    return member if needs_training(directory, member.trial, member.run) else None


def _train(members: list[_Member], report: Report) -> list[Path]:
    report({"phase": "generator", "note": f"training {len(members)} generators together"})
    clock, share = Clock(), 1 / len(members)
    with out_of_memory.as_user_error("generators of a pack"):
        runs: dict[Path, PhaseRun[GeneratorStepper]] = {}
        for member in members:
            runs[member.directory] = run = begin_generator(
                member.directory, member.trial, member.run, member.workshop, member.tokenizer,
                silent if runs else report, share, clock,
            )  # fmt: skip
            run.record.packed = len(members)
        ended = train_together(list(runs.values()), take_step)
        for run in ended:
            run.keep()
    return [directory for directory, run in runs.items() if run in ended]

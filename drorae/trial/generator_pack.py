"""The generators of several trials, trained as one pack: alike in all but the latents that they learn."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from drorae.config import (
    GeneratorRun,
    Runtime,
    TrialConfig,
    canonical_json,
    config_hash,
    generator_identity,
    shared_key,
)
from drorae.generation.pack import take_step
from drorae.generation.training import GeneratorStepper
from drorae.machine.precision import settled
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import out_of_memory
from drorae.training.loop import Clock, PhaseRun, Report
from drorae.training.pack import train_together
from drorae.trial.generation import generator_run
from drorae.trial.generator import begin_generator, checked_folder, is_finished, text_encoder_of
from drorae.trial.own_phases import is_trained, restore_phase
from drorae.trial.pack import open_members, silent
from drorae.trial.shared import Workshop


@dataclass(frozen=True)
class _Member:
    """A trial of a pack."""

    directory: Path
    folder: Path
    """The generator's."""
    workshop: Workshop
    tokenizer: Tokenizer
    run: GeneratorRun

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
    wanted = {directory: settled(config) for directory, config in trials.items() if config.generator.epochs}
    packs: dict[str, list[_Member]] = {}
    with contextlib.ExitStack() as stack:
        for member in open_members(wanted, report, runtime or Runtime(), stack, _member):
            packs.setdefault(member.kind, []).append(member)
        return [directory for members in packs.values() if len(members) > 1 for directory in _train(members, report)]


def _member(directory: Path, workshop: Workshop, stack: contextlib.ExitStack) -> _Member | None:
    """A trial whose tokenizer is trained, and its generator is not; None of any other."""
    config, tokenizer = workshop.config, workshop.tokenizer()
    for phase in config.phases[1:]:
        if phase.settings.epochs:
            if not is_trained(config, phase, tokenizer, directory):
                return None
            restore_phase(config, phase, tokenizer, directory)
    run = generator_run(workshop)
    folder = checked_folder(directory, config_hash(config), run)
    if is_finished(folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(FileLock(folder / ".lock").acquire(timeout=0))
    return _Member(directory, folder, workshop, tokenizer.requires_grad_(False).eval(), run)


def _train(members: list[_Member], report: Report) -> list[Path]:
    report({"phase": "generator", "note": f"training {len(members)} generators together"})
    clock, share = Clock(), 1 / len(members)
    with out_of_memory.as_user_error("generators of a pack"):
        runs: dict[Path, PhaseRun[GeneratorStepper]] = {}
        for member in members:
            run, _ = begin_generator(
                member.folder, config_hash(member.workshop.config), member.run, member.workshop, member.tokenizer,
                text_encoder_of(member.run, member.workshop), silent if runs else report, share, clock,
            )  # fmt: skip
            run.record.packed = len(members)
            runs[member.directory] = run
        ended = train_together(list(runs.values()), take_step)
        for run in ended:
            run.keep()
    return [directory for directory, run in runs.items() if run in ended]

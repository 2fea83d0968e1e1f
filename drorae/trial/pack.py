"""Phase 2 of several trials, trained as one pack: they read the same features and paint through the same decoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from drorae.config import UNTRAINED, Runtime, TrialConfig, canonical_json, pack_key
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.models.fusion.size import exact_params
from drorae.models.tokenizer import Tokenizer
from drorae.storage.files import naming_full_disk
from drorae.training.loop import Clock, PhaseRun, Report, Row, glance
from drorae.training.pack import take_step, train_together
from drorae.training.step import Stepper
from drorae.trial.folder import ENDED, read_outcome
from drorae.trial.own_phases import begin_phase, checkpoint_of, is_trained, keep_phase
from drorae.trial.run import check_config, open_trial
from drorae.trial.shared import Workshop

M = TypeVar("M")


@dataclass(frozen=True)
class _Member:
    """A trial of a pack."""

    directory: Path
    workshop: Workshop
    tokenizer: Tokenizer

    @property
    def flops(self) -> float:
        """Floating-point operations of its phase 2."""
        alone = replace(self.workshop, config=replace(self.workshop.config, phase3=UNTRAINED))
        return alone.train_flops(exact_params(self.tokenizer.fusion))


def train_pack(
    trials: Mapping[Path, TrialConfig], report: Report = lambda row: None, *, runtime: Runtime | None = None
) -> list[Path]:
    """Trains phase 2 of trials together, and leaves in each one's folder what `run_trial` goes on from.

    A trial that is at work elsewhere, that has come so far already, or that cannot be opened, is left out; `run_trial`
    says why. One that diverges is trained alone by it, to the same end. Killed, a pack goes on from its trials'
    checkpoints, as each of them does alone.

    Args:
        trials: by folder; all with the same `drorae.config.pack_key`.
        report: called with rows of progress of the first of them.
        runtime: device, threads, cache.

    Returns:
        The folders of the trials that were trained; none where fewer than two were left to be.

    Raises:
        ValueError: the trials cannot be trained together.
        UserError: memory does not hold one image of each, or a disk is full.
    """
    trials = {directory: settled(config) for directory, config in trials.items()}
    keys = [pack_key(config) for config in trials.values()]
    if None in keys or len({canonical_json(key) for key in keys if key is not None}) > 1:
        raise ValueError("the trials of a pack need one seed, one decoder and batches in common")
    with contextlib.ExitStack() as stack:
        members = open_members(trials, report, runtime or Runtime(), stack, _member)
        return _train(members, report) if len(members) > 1 else []


def silent(row: Row) -> None:
    """Hears of the rows of all but the first: they are reported when a trial goes on by itself."""


def open_members(
    trials: Mapping[Path, TrialConfig],
    report: Report,
    runtime: Runtime,
    stack: contextlib.ExitStack,
    member: Callable[[Path, Workshop, contextlib.ExitStack], M | None],
) -> list[M]:
    """Returns the trials that are to be trained; one that has ended, is at work elsewhere or cannot be opened is not.

    Args:
        trials: by folder.
        report: called with rows of progress.
        runtime: device, threads, cache.
        stack: keeps others from them while it is open.
        member: makes one of a trial's folder and workshop, and may keep others from more; None: it is left out.
    """
    members = []
    for directory, config in trials.items():
        stack.enter_context(naming_full_disk(directory))
        with contextlib.suppress(UserError, Timeout):
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(directory / ".lock").acquire(timeout=0))
            check_config(directory, config)
            if read_outcome(directory)["status"] not in ENDED:
                workshop = open_trial(config, report, directory, runtime)
                if (found := member(directory, workshop, stack)) is not None:
                    members.append(found)
    return members


def _member(directory: Path, workshop: Workshop, stack: contextlib.ExitStack) -> _Member | None:
    """A trial whose phase 2 is still to be trained; None of any other."""
    member = _Member(directory, workshop, workshop.tokenizer())
    trained = is_trained(workshop.config, workshop.config.phases[1], member.tokenizer, directory)
    return None if trained else member


def _train(members: list[_Member], report: Report) -> list[Path]:
    report({"phase": "phase2", "note": f"training {len(members)} trials together"})
    flops = [member.flops for member in members]
    runs: dict[Path, PhaseRun[Stepper]] = {}
    clock = Clock()
    for member, own in zip(members, flops, strict=True):
        config, workshop = member.workshop.config, member.workshop
        phase = config.phases[1]
        begin_phase(workshop, member.tokenizer, phase)
        # Frozen, and of the same weights: one is enough.
        member.tokenizer.decoder = members[0].tokenizer.decoder
        stepper = Stepper(
            member.tokenizer, phase, workshop.train, workshop.objective, None,
            seed=config.seed, device=workshop.device, runtime=workshop.runtime,
        )  # fmt: skip
        checkpoint, share = checkpoint_of(phase, member.directory), own / sum(flops)
        run = PhaseRun(
            stepper, workshop.runtime, checkpoint, silent if runs else report, share,
            partial(glance, stepper, workshop.look(member.directory)), clock,
        )  # fmt: skip
        runs[member.directory] = run
        run.record.packed = len(members)
    ended = train_together(list(runs.values()), take_step)
    done = [member for member in members if runs[member.directory] in ended]
    for member in done:
        config, record = member.workshop.config, runs[member.directory].record
        keep_phase(config, config.phases[1], member.tokenizer, record, member.directory)
    return [member.directory for member in done]

"""A trial's own phases, 2 and 3: trained in turn, left in its folder, and taken up again from there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from drorae.config import Phase, TrialConfig
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.runtime import distributed
from drorae.storage.files import write_json
from drorae.storage.sealed import read_sealed, write_sealed
from drorae.training.adversary import Adversary, make_adversary
from drorae.training.loop import Report, TrainingRecord, train_phase
from drorae.training.phases import part_of
from drorae.trial.folder import HELD_OUT_PICTURE
from drorae.trial.heads import earlier_heads, heads_of, keep_heads
from drorae.trial.shared import Workshop
from drorae.trial.weights import phase_files

BETWEEN = "phase2.metrics.json"
"""What the tokenizer measures between phases 2 and 3."""
PHASE_LOG, PHASE_CHECKPOINT = "{}.json", "{}.pt"
"""Of a phase, by its name."""


def train_own_phases(
    workshop: Workshop, tokenizer: Tokenizer, directory: Path, note: Report, report: Report
) -> list[TrainingRecord]:
    """Trains a trial's own phases in turn; one whose weights are already there, and whole, is not trained again.

    `note` gets the rows of training, `report` what is said beside them.
    """
    outcomes = []
    first, last = own = workshop.config.phases[1:]
    for phase in own:
        begin_phase(workshop, tokenizer, phase)
        # Damaged files are set aside by one process, on behalf of all.
        whole = distributed.is_main() and is_trained(workshop.config, phase, tokenizer, directory)
        if distributed.from_main(whole):
            restore_phase(workshop.config, phase, tokenizer, directory)
            outcome = _read_log(_log_of(phase, directory))
            for row in outcome.rows:
                note(row)
        else:
            outcome, adversary = _train_phase(workshop, tokenizer, phase, directory, note)
            if outcome.steps and distributed.is_main():
                keep_phase(workshop.config, phase, tokenizer, outcome, directory, adversary)
            distributed.barrier()
        if outcome.steps:
            outcomes.append(outcome)
            if phase is first and last.settings.epochs:
                _measure_between(workshop, tokenizer, directory, report)
    return outcomes


def begin_phase(workshop: Workshop, tokenizer: Tokenizer, phase: Phase) -> None:
    """Initialises anew what a phase trains, where it says so."""
    if phase.fresh and phase.settings.epochs:
        anew = workshop.tokenizer(untrained=True)
        for part in phase.trains:
            part_of(tokenizer, part).load_state_dict(part_of(anew, part).state_dict())


def is_trained(config: TrialConfig, phase: Phase, tokenizer: Tokenizer, directory: Path) -> bool:
    """Says whether a phase has left its weights and its log, whole; damaged ones are set aside."""
    files = phase_files(config, phase, tokenizer, directory)
    weights = all(read_sealed(path, read_state) is not None for path in files.values())
    return weights and read_sealed(_log_of(phase, directory), _read_log) is not None


def restore_phase(config: TrialConfig, phase: Phase, tokenizer: Tokenizer, directory: Path) -> None:
    """Gives a tokenizer the weights that a phase has left."""
    for part, path in phase_files(config, phase, tokenizer, directory).items():
        fit_state(part_of(tokenizer, part), read_state(path), path, "rename it, and it is trained again")


def keep_phase(
    config: TrialConfig,
    phase: Phase,
    tokenizer: Tokenizer,
    outcome: TrainingRecord,
    directory: Path,
    adversary: Adversary | None = None,
) -> None:
    """Leaves what a phase has trained, and its log, in the trial's folder."""
    last = config.phases[-1]
    if phase.number < last.number:
        _forget(config, last, tokenizer, directory)
    if adversary is not None and last.settings.disc_from == phase.name:
        keep_heads(heads_of(directory, phase.name), adversary)
    for part, path in phase_files(config, phase, tokenizer, directory).items():
        save_sealed(path, part_of(tokenizer, part).state_dict())
    write_sealed(_log_of(phase, directory), partial(write_json, tree=asdict(outcome)))


def checkpoint_of(phase: Phase, directory: Path) -> Path:
    """Returns where a phase under way is saved."""
    return directory / PHASE_CHECKPOINT.format(phase.name)


def _log_of(phase: Phase, directory: Path) -> Path:
    return directory / PHASE_LOG.format(phase.name)


def _train_phase(
    workshop: Workshop, tokenizer: Tokenizer, phase: Phase, directory: Path, note: Report
) -> tuple[TrainingRecord, Adversary | None]:
    config, device = workshop.config, workshop.device
    heads = earlier_heads(config, workshop.runtime, workshop.fingerprints, directory, phase)
    adversary = make_adversary(config, phase.settings, device, config.seed, heads, workshop.runtime.compile)
    record = train_phase(
        tokenizer, phase, workshop.train, workshop.objective, adversary,
        seed=config.seed, device=device, checkpoint=checkpoint_of(phase, directory),
        runtime=workshop.runtime, report=note, look=workshop.look(directory),
    )  # fmt: skip
    return record, adversary


def _forget(config: TrialConfig, phase: Phase, tokenizer: Tokenizer, directory: Path) -> None:
    """Removes what a later phase made of other weights, set aside since: it would not be of this trial."""
    weights = phase_files(config, phase, tokenizer, directory).values()
    others = (directory / BETWEEN, directory / HELD_OUT_PICTURE.format(phase.name))
    for path in (*weights, *others, _log_of(phase, directory), checkpoint_of(phase, directory)):
        path.unlink(missing_ok=True)


class Between(NamedTuple):
    """What a tokenizer measured before phase 3, and what that took."""

    metrics: Mapping[str, float] = MappingProxyType({})
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def _measure_between(workshop: Workshop, tokenizer: Tokenizer, directory: Path, report: Report) -> None:
    """Measures what phase 2 has trained, before phase 3 trains the decoder; once per trial."""
    lacking = distributed.is_main() and read_sealed(directory / BETWEEN, _load_between) is None
    if distributed.from_main(lacking):
        report({"phase": "evaluation", "note": f"measuring {len(workshop.val)} images after phase 2"})
        started, cpu_started = time.perf_counter(), time.process_time()
        metrics = dict(workshop.evaluate(tokenizer).metrics)
        del metrics["eval_images"]
        found = Between(metrics, time.perf_counter() - started, time.process_time() - cpu_started)
        if distributed.is_main():
            write_sealed(directory / BETWEEN, partial(write_json, tree=found._asdict()))
    distributed.barrier()


def read_between(directory: Path) -> Between:
    """Returns what a trial measured between phases 2 and 3; nothing where it did not."""
    return read_sealed(directory / BETWEEN, _load_between) or Between()


def _load_between(path: Path) -> Between:
    return Between(**json.loads(path.read_text()))


def _read_log(path: Path) -> TrainingRecord:
    return TrainingRecord.of(json.loads(path.read_text()))

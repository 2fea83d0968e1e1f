"""One trial: a config in, measured metrics out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from drorae.config import Phase, Runtime, TrialConfig, config_hash, is_moved, load_config, to_dict
from drorae.diagnostics.inspection import IMAGES, inspect
from drorae.diagnostics.probe import probe
from drorae.errors import UserError
from drorae.machine.needs import EncoderShape, train_flops
from drorae.models.fusion.size import exact_params, paper_params
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.runtime import distributed, out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import naming_full_disk, replacing, write_atomic, write_json
from drorae.storage.sealed import read_sealed, write_sealed
from drorae.training.adversary import Adversary, make_adversary
from drorae.training.loop import DivergenceError, Report, Row, TrainingRecord, train_phase
from drorae.training.phases import part_of
from drorae.trial.folder import (
    CONFIG,
    HISTORY,
    INPUTS,
    INSPECTION,
    INSPECTION_ARRAYS,
    PER_IMAGE,
    RESULT,
    SAMPLES,
    TrialStatus,
    set_damaged_aside,
    write_tree,
)
from drorae.trial.heads import earlier_heads, heads_of, keep_heads
from drorae.trial.inputs import check_inputs, note_prepared
from drorae.trial.provenance import provenance
from drorae.trial.result import TrialResult, read_result
from drorae.trial.shared import Workshop, open_workshop
from drorae.trial.weights import own_digests, phase_files

BETWEEN = "phase2.metrics.json"
"""What the tokenizer measures between phases 2 and 3."""
PHASE_LOG, PHASE_CHECKPOINT = "{}.json", "{}.pt"
"""Of a phase, by its name."""
UNCONVERGED_DROP = 0.05
"""A trial whose training loss still fell by more than this share over its last fifth counts as unconverged."""


def prepare(config: TrialConfig, runtime: Runtime, report: Report = lambda row: None) -> dict[str, str]:
    """Makes what all trials with this encoder, images and decoder share: features, phase 1, references.

    Returns the fingerprints of what they are made from (`Workshop.fingerprints`).

    Raises:
        UserError: something the user can put right, a full disk and too little memory among it.
    """
    cache = Cache(runtime.cache_dir)
    with naming_full_disk(cache.local), out_of_memory.as_user_error("preparation"):
        workshop = open_workshop(config, runtime, report)
        note_prepared(config, cache, workshop.fingerprints)
    return workshop.fingerprints


def loss_tail_drop(losses: Sequence[float]) -> float:
    """Relative fall of the mean training loss from the fourth to the last fifth of the steps; 0 for under 10."""
    fifth = len(losses) // 5
    if fifth < 2:
        return 0.0
    before, last = float(np.mean(losses[-2 * fifth : -fifth])), float(np.mean(losses[-fifth:]))
    return (before - last) / before if before else 0.0


def run_trial(
    config: TrialConfig,
    report: Callable[[Row], None] = lambda row: None,
    *,
    directory: str | Path,
    runtime: Runtime | None = None,
) -> TrialResult:
    """Trains phases 2 and 3 from the shared phase-1 decoder and measures the tokenizer.

    A finished trial is returned at once, a half-done one goes on from its checkpoint. A file lock on the
    directory keeps two processes from working on one trial.

    Args:
        config: the trial.
        report: called with rows of progress (`phase`, `step`, `loss`, ...); after a resume, with the earlier
            rows of the interrupted phase first.
        directory: the trial's own folder; gets config.json, result.json, history.jsonl, per_image.npz,
            the trained weights, and what `drorae.diagnostics.inspection` saves.
        runtime: device, threads, cache.

    Raises:
        UserError: something the user can put right, such as a directory that holds another trial.
    """
    directory = Path(directory)
    with naming_full_disk(directory), out_of_memory.as_user_error("this trial"):
        directory.mkdir(parents=True, exist_ok=True)
        with distributed.main_lock(FileLock(directory / ".lock")):
            moved = _check_config(directory, config)
            if distributed.is_main():
                set_damaged_aside(directory)
            distributed.barrier()
            result = read_result(directory)
            if result is not None and moved:
                _open_workshop(config, report, directory, runtime or Runtime())
            return result or _run(config, report, directory, runtime or Runtime())


def _check_config(directory: Path, config: TrialConfig) -> bool:
    """Whether the trial begun in a folder had its data or weights at other places.

    Raises:
        UserError: it is another trial.
    """
    path = directory / CONFIG
    begun = load_config(path) if path.is_file() else config
    if config_hash(begun) != config_hash(config):
        raise UserError(f"{directory}: holds a trial of another config; choose another folder, or rename this one")
    return is_moved(begun, config)


def _open_workshop(config: TrialConfig, report: Report, directory: Path, runtime: Runtime) -> Workshop:
    """The workshop of a trial, whose images and weights are found to be those that it began with."""
    workshop = open_workshop(config, runtime, report, partial(check_inputs, config, runtime, directory))
    if distributed.is_main():
        write_json(directory / CONFIG, to_dict(config))
        write_tree(directory, INPUTS, workshop.fingerprints)
    return workshop


def _run(config: TrialConfig, report: Report, directory: Path, runtime: Runtime) -> TrialResult:
    workshop = _open_workshop(config, report, directory, runtime)
    tokenizer = workshop.tokenizer()
    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        report(row)

    trained: list[TrainingRecord] | str
    try:
        trained = _train(workshop, tokenizer, directory, note, report)
    except DivergenceError as error:
        trained = str(error)
    if distributed.is_main():
        _record(workshop, tokenizer, trained, rows, directory, report)
    distributed.barrier()
    result = read_result(directory)
    if result is None:
        raise UserError(f"{directory}: no result appeared here; a trial's processes must share its folder")
    return result


def _record(
    workshop: Workshop,
    tokenizer: Tokenizer,
    trained: list[TrainingRecord] | str,
    rows: list[Row],
    directory: Path,
    report: Report,
) -> None:
    """Measures a trained tokenizer and writes its result; of one that diverged, the reason.

    `rows` become the history; what is reported here is for those who watch, and no part of it.
    """
    config = workshop.config
    depth, width = tokenizer.fusion.num_layers, workshop.encoder.width
    result = TrialResult(
        config_hash=config_hash(config),
        status=TrialStatus.DIVERGED,
        variant=config.fusion.variant,
        expert_hidden_dim=config.fusion.expert_hidden_dim,
        num_layers=depth,
        seed=config.seed,
        fusion_params=exact_params(tokenizer.fusion),
        fusion_params_paper=paper_params(depth, width, config.fusion.expert_hidden_dim),
        baseline=workshop.baseline,
        reason=trained if isinstance(trained, str) else "",
        weights={"phase1_decoder": workshop.fingerprints["phase1_weights"]},
        provenance=provenance(workshop),
    )
    if not isinstance(trained, str):
        result = _measure(workshop, tokenizer, trained, result, directory, report)
    write_atomic(directory / HISTORY, "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_tree(directory, RESULT, asdict(result))
    if result.status != TrialStatus.DIVERGED:
        for phase in config.phases[1:]:
            (directory / PHASE_CHECKPOINT.format(phase.name)).unlink(missing_ok=True)


def _measure(
    workshop: Workshop,
    tokenizer: Tokenizer,
    trained: list[TrainingRecord],
    result: TrialResult,
    directory: Path,
    report: Report,
) -> TrialResult:
    """Measures and inspects a trained tokenizer, and returns `result` with what was found.

    Where phase 3 trained, what was measured before it stands beside, under names such as `phase2.psnr`.
    """
    config = workshop.config
    started, cpu_started = time.perf_counter(), time.process_time()
    report({"phase": "evaluation", "note": f"measuring {len(workshop.val)} images"})
    evaluation = workshop.evaluate(tokenizer)
    between = _read_between(directory)
    metrics = dict(evaluation.metrics) | {f"phase2.{name}": value for name, value in between.metrics.items()}
    if config.probe.steps:
        report({"phase": "evaluation", "note": "training the probe"})
        metrics |= probe(tokenizer, workshop.train, workshop.val, config.probe, config.evaluation.batch_size)
    eval_seconds = time.perf_counter() - started + between.seconds
    eval_cpu = time.process_time() - cpu_started + between.cpu_seconds
    with replacing(directory / PER_IMAGE) as path:
        np.savez(path, **dict[str, Any](evaluation.per_image))
    report({"phase": "evaluation", "note": "inspecting the fusion"})
    quantise = config.evaluation.quantise
    fused = config.phases[0].fused
    baseline = workshop.baseline_tokenizer()
    look = partial(inspect, tokenizer, baseline, workshop.val, quantise=quantise, baseline_fused=fused)
    inspection = out_of_memory.retry_smaller(IMAGES, look, "inspection", "looks at so many")[0]
    inspection.save(directory / SAMPLES, directory / INSPECTION_ARRAYS, directory / INSPECTION)
    seconds = sum(phase.seconds for phase in trained)
    cpu = sum(phase.cpu_seconds for phase in trained)
    drop = max((loss_tail_drop(phase.losses) for phase in trained), default=0.0)
    unconverged = drop > UNCONVERGED_DROP
    shape = EncoderShape(workshop.encoder.num_layers, workshop.encoder.width, workshop.encoder.patch_size)
    smaller = {
        f"micro_batch.{phase.rows[-1]['phase']}": str(phase.micro_batch) for phase in trained if phase.micro_batch
    }
    return replace(
        result,
        status=TrialStatus.UNCONVERGED if unconverged else TrialStatus.FINISHED,
        reason=f"training loss still fell by {drop:.1%} over the last fifth" if unconverged else "",
        metrics=metrics,
        eval_images=int(metrics["eval_images"]),
        train_seconds=seconds,
        eval_seconds=eval_seconds,
        device_seconds=cpu + eval_cpu if workshop.device.type == "cpu" else seconds + eval_seconds,
        train_flops=train_flops(config, shape, len(workshop.train), result.fusion_params),
        loss_tail_drop=drop,
        weights={**result.weights, **own_digests(config, tokenizer)},
        provenance={**result.provenance, **smaller},
    )


def _train(
    workshop: Workshop, tokenizer: Tokenizer, directory: Path, note: Report, report: Report
) -> list[TrainingRecord]:
    """The trial's own phases in turn; one whose weights are already there, and whole, is not trained again.

    `note` gets the rows of training, `report` what is said beside them.
    """
    outcomes = []
    first, last = own = workshop.config.phases[1:]
    for phase in own:
        if phase.fresh and phase.settings.epochs:
            anew = workshop.tokenizer(untrained=True)
            for part in phase.trains:
                part_of(tokenizer, part).load_state_dict(part_of(anew, part).state_dict())
        files = phase_files(workshop.config, phase, tokenizer, directory)
        log = directory / PHASE_LOG.format(phase.name)
        # Damaged ones are set aside by one process, on behalf of all.
        whole = distributed.is_main() and all(read_sealed(path, read_state) is not None for path in files.values())
        if distributed.from_main(whole and read_sealed(log, _read_log) is not None, workshop.device):
            for part, path in files.items():
                fit_state(part_of(tokenizer, part), read_state(path), path, "rename it, and it is trained again")
            outcome = _read_log(log)
            for row in outcome.rows:
                note(row)
        else:
            outcome, adversary = _train_phase(workshop, tokenizer, phase, directory, note)
            if outcome.steps and distributed.is_main():
                if phase is first:
                    _forget(directory, last, phase_files(workshop.config, last, tokenizer, directory).values())
                if adversary is not None and last.settings.disc_from == phase.name:
                    keep_heads(heads_of(directory, phase.name), adversary)
                for part, path in files.items():
                    save_sealed(path, part_of(tokenizer, part).state_dict())
                write_sealed(log, partial(write_json, tree=asdict(outcome)))
            distributed.barrier()
        if outcome.steps:
            outcomes.append(outcome)
            if phase is first and last.settings.epochs:
                _measure_between(workshop, tokenizer, directory, report)
    return outcomes


def _train_phase(
    workshop: Workshop, tokenizer: Tokenizer, phase: Phase, directory: Path, note: Report
) -> tuple[TrainingRecord, Adversary | None]:
    config, device = workshop.config, workshop.device
    heads = earlier_heads(config, workshop.runtime, workshop.fingerprints, directory, phase)
    adversary = make_adversary(config, phase.settings, device, config.seed, heads)
    record = train_phase(
        tokenizer, phase, workshop.train, workshop.objective, adversary,
        seed=config.seed, device=device, checkpoint=directory / PHASE_CHECKPOINT.format(phase.name),
        runtime=workshop.runtime, report=note,
    )  # fmt: skip
    return record, adversary


def _forget(directory: Path, phase: Phase, weights: Iterable[Path]) -> None:
    """Removes what a later phase made of other weights, set aside since: it would not be of this trial."""
    names = (BETWEEN, PHASE_LOG.format(phase.name), PHASE_CHECKPOINT.format(phase.name))
    for path in (*weights, *(directory / name for name in names)):
        path.unlink(missing_ok=True)


class _Between(NamedTuple):
    """What a tokenizer measured before phase 3, and what that took."""

    metrics: Mapping[str, float] = MappingProxyType({})
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def _measure_between(workshop: Workshop, tokenizer: Tokenizer, directory: Path, report: Report) -> None:
    """Measures what phase 2 has trained, before phase 3 trains the decoder; once per trial."""
    if distributed.is_main() and read_sealed(directory / BETWEEN, _load_between) is None:
        report({"phase": "evaluation", "note": f"measuring {len(workshop.val)} images after phase 2"})
        started, cpu_started = time.perf_counter(), time.process_time()
        metrics = dict(workshop.evaluate(tokenizer).metrics)
        del metrics["eval_images"]
        found = _Between(metrics, time.perf_counter() - started, time.process_time() - cpu_started)
        write_sealed(directory / BETWEEN, partial(write_json, tree=found._asdict()))
    distributed.barrier()


def _read_between(directory: Path) -> _Between:
    return read_sealed(directory / BETWEEN, _load_between) or _Between()


def _load_between(path: Path) -> _Between:
    return _Between(**json.loads(path.read_text()))


def _read_log(path: Path) -> TrainingRecord:
    return TrainingRecord(**json.loads(path.read_text()))

"""One trial: a config in, measured metrics out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from drorae.config import Runtime, TrialConfig, config_hash, is_moved, load_config, to_dict
from drorae.diagnostics.inspection import IMAGES, inspect
from drorae.diagnostics.probe import probe
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.metrics.evaluate import Evaluation
from drorae.metrics.gain import gains
from drorae.models.fusion.size import exact_params, paper_params
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import naming_full_disk, replacing, write_atomic, write_json
from drorae.training.loop import DivergenceError, Report, Row, TrainingRecord
from drorae.training.rows import is_kept
from drorae.trial.folder import (
    CHECKPOINTS,
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
from drorae.trial.generation import Generation, check_generation, measure_generation
from drorae.trial.inputs import check_inputs, note_prepared
from drorae.trial.own_phases import checkpoint_of, read_between, train_own_phases
from drorae.trial.provenance import provenance
from drorae.trial.result import PACKED, TrialResult, read_result
from drorae.trial.shared import Workshop, open_workshop
from drorae.trial.weights import own_digests


def prepare(config: TrialConfig, runtime: Runtime, report: Report = lambda row: None) -> dict[str, str]:
    """Makes what all trials with this encoder, images and decoder share: features, phase 1, references.

    Returns the fingerprints of what they are made from (`Workshop.fingerprints`).

    Raises:
        UserError: something the user can put right, a full disk and too little memory among it.
    """
    config, cache = settled(config), Cache(runtime.cache_dir)
    with naming_full_disk(cache.local), out_of_memory.as_user_error("preparation"):
        workshop = open_workshop(config, runtime, report)
        note_prepared(config, cache, workshop.fingerprints)
    return workshop.fingerprints


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
            rows of the interrupted phase first. A row of a long phase that its history leaves out has `passing`.
        directory: the trial's own folder; gets config.json, result.json, history.jsonl, per_image.npz,
            the trained weights, and what `drorae.diagnostics.inspection` saves.
        runtime: device, threads, cache.

    Raises:
        UserError: something the user can put right, such as a directory that holds another trial.
    """
    config, directory = settled(config), Path(directory)
    with naming_full_disk(directory), out_of_memory.as_user_error("this trial"):
        directory.mkdir(parents=True, exist_ok=True)
        with distributed.main_lock(FileLock(directory / ".lock")):
            moved = check_config(directory, config)
            if distributed.is_main():
                set_damaged_aside(directory)
            distributed.barrier()
            result = read_result(directory)
            if result is not None and moved:
                open_trial(config, report, directory, runtime or Runtime())
            return result or _run(config, report, directory, runtime or Runtime())


def check_config(directory: Path, config: TrialConfig) -> bool:
    """Says whether the trial begun in a folder had its data or weights at other places.

    Raises:
        UserError: it is another trial.
    """
    path = directory / CONFIG
    begun = load_config(path) if path.is_file() else config
    if config_hash(begun) != config_hash(config):
        raise UserError(f"{directory}: holds a trial of another config; choose another folder, or rename this one")
    return is_moved(begun, config)


def open_trial(config: TrialConfig, report: Report, directory: Path, runtime: Runtime) -> Workshop:
    """Returns the workshop of a trial, whose images and weights are found to be those that it began with."""
    check = partial(check_inputs, config, runtime, directory)
    workshop = open_workshop(config, runtime, report, check)
    # Before anything of its own is trained.
    check(told := check_generation(workshop))
    workshop = replace(workshop, fingerprints=workshop.fingerprints | told)
    if distributed.is_main():
        write_json(directory / CONFIG, to_dict(config))
        write_tree(directory, INPUTS, workshop.fingerprints)
    return workshop


def _run(config: TrialConfig, report: Report, directory: Path, runtime: Runtime) -> TrialResult:
    workshop = open_trial(config, report, directory, runtime)
    tokenizer = workshop.tokenizer()
    rows: list[Row] = []

    def note(row: Row) -> None:
        if is_kept(row):
            rows.append(row)
        report(row)

    trained: list[TrainingRecord] | str
    try:
        trained = train_own_phases(workshop, tokenizer, directory, note, report)
    except DivergenceError as error:
        trained = str(error)
    # All processes measure; what they find is the main one's to write down.
    evaluated = None if isinstance(trained, str) else _evaluate(workshop, tokenizer, report)
    generation = Generation() if evaluated is None else measure_generation(workshop, tokenizer, directory, report)
    if evaluated is not None and config.probe.steps:
        evaluated = _probe(workshop, tokenizer, evaluated, directory, report)
    if distributed.is_main():
        _record(workshop, tokenizer, trained, evaluated, generation, rows, directory, report)
    distributed.barrier()
    result = read_result(directory)
    if result is None:
        raise UserError(f"{directory}: no result appeared here; a trial's processes must share its folder")
    return result


def _record(
    workshop: Workshop,
    tokenizer: Tokenizer,
    trained: list[TrainingRecord] | str,
    evaluated: _Evaluated | None,
    generation: Generation,
    rows: list[Row],
    directory: Path,
    report: Report,
) -> None:
    """Writes the result of a trained tokenizer, `evaluated` before; of one that diverged, the reason.

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
    if not isinstance(trained, str) and evaluated is not None:
        result = _measured(workshop, tokenizer, trained, evaluated, generation, result, directory, report)
    write_atomic(directory / HISTORY, "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_tree(directory, RESULT, asdict(result))
    if result.status != TrialStatus.DIVERGED:
        _probe_checkpoint(directory).unlink(missing_ok=True)
        for phase in config.phases[1:]:
            checkpoint_of(phase, directory).unlink(missing_ok=True)


class _Evaluated(NamedTuple):
    """What the validation images show of a trained tokenizer, and what that took."""

    evaluation: Evaluation
    seconds: float
    cpu_seconds: float
    probe: Mapping[str, float] = MappingProxyType({})
    """What the probe says, where there is one; its time is in that above."""


def _evaluate(workshop: Workshop, tokenizer: Tokenizer, report: Report) -> _Evaluated:
    started, cpu_started = time.perf_counter(), time.process_time()
    report({"phase": "evaluation", "note": f"measuring {len(workshop.val)} images"})
    found = workshop.evaluate(tokenizer)
    return _Evaluated(found, time.perf_counter() - started, time.process_time() - cpu_started)


def _probe(
    workshop: Workshop, tokenizer: Tokenizer, evaluated: _Evaluated, directory: Path, report: Report
) -> _Evaluated:
    """Trains the probe and adds what it says, and what that took."""
    started, cpu_started = time.perf_counter(), time.process_time()
    config = workshop.config
    report({"phase": "probe", "note": "training the probe"})
    found = probe(
        tokenizer, workshop.train, workshop.val, config.probe, config.evaluation.batch_size,
        _probe_checkpoint(directory), workshop.runtime, report,
    )  # fmt: skip
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return evaluated._replace(
        seconds=evaluated.seconds + seconds, cpu_seconds=evaluated.cpu_seconds + cpu_seconds, probe=found
    )


def _probe_checkpoint(directory: Path) -> Path:
    return directory / CHECKPOINTS.replace("*", "probe")


def _measured(
    workshop: Workshop,
    tokenizer: Tokenizer,
    trained: list[TrainingRecord],
    evaluated: _Evaluated,
    generation: Generation,
    result: TrialResult,
    directory: Path,
    report: Report,
) -> TrialResult:
    """Inspects a trained tokenizer, and returns `result` with all that was found.

    Where phase 3 trained, what was measured before it stands beside, under names such as `phase2.psnr`.
    """
    config, evaluation = workshop.config, evaluated.evaluation
    started, cpu_started = time.perf_counter(), time.process_time()
    between = read_between(directory)
    metrics = dict(evaluation.metrics) | {f"phase2.{name}": value for name, value in between.metrics.items()}
    metrics |= generation.metrics | dict(evaluated.probe)
    eval_seconds = time.perf_counter() - started + evaluated.seconds + between.seconds
    eval_cpu = time.process_time() - cpu_started + evaluated.cpu_seconds + between.cpu_seconds
    with replacing(directory / PER_IMAGE) as path:
        np.savez(path, **dict[str, Any](evaluation.per_image))
    report({"phase": "inspection", "note": "inspecting the fusion"})
    quantise = config.evaluation.quantise
    fused = config.phases[0].fused
    baseline = workshop.baseline_tokenizer()
    look = partial(inspect, tokenizer, baseline, workshop.val, quantise=quantise, baseline_fused=fused)
    inspection = out_of_memory.retry_smaller(IMAGES, look, "inspection", "looks at so many")[0]
    inspection.save(directory / SAMPLES, directory / INSPECTION_ARRAYS, directory / INSPECTION)
    seconds = sum(phase.seconds for phase in trained)
    cpu = sum(phase.cpu_seconds for phase in trained)
    how: dict[str, str] = {}
    for record in trained:
        if record.micro_batch:
            how[f"micro_batch.{record.rows[-1]['phase']}"] = str(record.micro_batch)
        if record.packed:
            how[PACKED] = str(record.packed)
    return replace(
        result,
        status=TrialStatus.FINISHED,
        metrics=metrics,
        gain=gains(evaluation, Evaluation(workshop.baseline, workshop.baseline_images)),
        eval_images=int(metrics["eval_images"]),
        train_seconds=seconds,
        eval_seconds=eval_seconds,
        device_seconds=(
            cpu + eval_cpu + generation.cpu_seconds
            if workshop.device.type == "cpu"
            else seconds + eval_seconds + generation.seconds
        ),
        train_flops=workshop.train_flops(result.fusion_params),
        weights={**result.weights, **own_digests(config, tokenizer)},
        provenance={**result.provenance, **how, **generation.verdicts},
    )

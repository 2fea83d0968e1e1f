"""One trial: a config in, measured metrics out. Knows neither Ray nor MLflow."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drorae.config import Runtime, TrialConfig, config_hash, load_config, override, phase1_key, to_dict
from drorae.diagnostics.inspection import IMAGES, inspect
from drorae.diagnostics.probe import probe
from drorae.errors import UserError
from drorae.losses.adversarial import make_adversary
from drorae.models.fusion.size import exact_params, paper_params
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.runtime import distributed, out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import naming_full_disk, replacing, write_atomic, write_json
from drorae.storage.sealed import is_sound, read_sealed, set_aside, write_sealed
from drorae.training.loop import Diverged, Report, Row, Trained, train_phase
from drorae.training.phases import PHASE2, PHASE3
from drorae.trial.shared import Workshop, open_workshop

INPUTS = "inputs.json"
"""Fingerprints of the images and weights that a trial is made from."""
UNCONVERGED_DROP = 0.05
"""A trial whose training loss still fell by more than this share over its last fifth counts as unconverged."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial measured; `result.json` in its directory."""

    config_hash: str
    status: str
    """finished; unconverged: the loss was still falling (`loss_tail_drop`); diverged: it stopped being finite."""
    variant: str
    expert_hidden_dim: int
    num_layers: int
    seed: int
    fusion_params: int
    """Trainable scalars of the fusion module."""
    fusion_params_paper: int
    """The paper's formula for experts and router of these sizes, whatever the variant has."""
    metrics: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    """The same metrics of the phase-1 decoder without fusion."""
    eval_images: int = 0
    train_seconds: float = 0.0
    """Wall seconds of phases 2 and 3, all sittings."""
    eval_seconds: float = 0.0
    """Wall seconds of the metrics, the probe among them."""
    device_seconds: float = 0.0
    """CPU: processor seconds of training and evaluation; CUDA: their wall seconds."""
    loss_tail_drop: float = 0.0
    reason: str = ""
    provenance: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def prepare(config: TrialConfig, runtime: Runtime, report: Report = lambda row: None) -> None:
    """Makes what all trials with this encoder, images and decoder share: features, phase 1, references.

    Raises:
        UserError: something the user can put right, a full disk and too little memory among it.
    """
    cache = Cache(runtime.cache_dir)
    with naming_full_disk(cache.local), out_of_memory.named("preparation"):
        workshop = open_workshop(config, runtime, report)
        name = _prepared(config)
        write_json(cache / name, workshop.fingerprints)
        cache.share(name)


def _prepared(config: TrialConfig) -> str:
    """Where in the cache `prepare` notes what it found."""
    key = config_hash(phase1_key(config) | {"evaluation": to_dict(config.evaluation)})
    return f"prepared/{key}.json"


def loss_tail_drop(losses: Sequence[float]) -> float:
    """Relative fall of the mean training loss from the fourth to the last fifth of the steps; 0 for under 10."""
    fifth = len(losses) // 5
    if fifth < 2:
        return 0.0
    before, last = float(np.mean(losses[-2 * fifth : -fifth])), float(np.mean(losses[-fifth:]))
    return (before - last) / before if before else 0.0


def git_commit() -> str:
    """Commit of the source tree drorae runs from, with `-dirty` where it was changed; `unknown` outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", Path(__file__).name):
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def provenance(workshop: Workshop) -> dict[str, str]:
    """Where a result came from: code, libraries, machine, data and weights."""
    versions = {}
    for package in ("drorae", "torch", "torchvision", "timm", "numpy", "torchmetrics"):
        try:
            versions[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = workshop.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "device": f"{device.type} {name}",
        "threads": str(torch.get_num_threads()),
        **versions,
        **{f"fingerprint.{key}": value for key, value in workshop.fingerprints.items()},
        **{f"note.{key}": value for key, value in workshop.notes.items()},
    }


def read_result(directory: str | Path) -> TrialResult | None:
    """The result in a trial's directory, or None while there is none."""
    path = Path(directory) / "result.json"
    if not path.is_file():
        return None
    try:
        return TrialResult(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a trial's result ({error}); delete it and run again") from None


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
    with naming_full_disk(directory), out_of_memory.named("this trial"):
        directory.mkdir(parents=True, exist_ok=True)
        with distributed.locked(directory / ".lock"):
            _check_config(directory, config)
            if distributed.is_main():
                _set_damaged_aside(directory)
            distributed.barrier()
            return read_result(directory) or _run(config, report, directory, runtime or Runtime())


def _check_config(directory: Path, config: TrialConfig) -> None:
    begun = directory / "config.json"
    if begun.is_file() and config_hash(load_config(begun)) != config_hash(config):
        raise UserError(f"{directory}: holds a trial of another config; choose another folder, or delete this one")


def _set_damaged_aside(directory: Path) -> None:
    """Moves a result that cannot be read out of the way: the weights beside it are measured again."""
    try:
        read_result(directory)
    except UserError:
        set_aside(directory / "result.json", "unreadable")


def _run(config: TrialConfig, report: Report, directory: Path, runtime: Runtime) -> TrialResult:
    if distributed.is_main():
        write_json(directory / "config.json", to_dict(config))
    workshop = open_workshop(config, runtime, report, partial(_check_inputs, config, runtime, directory))
    if distributed.is_main():
        write_json(directory / INPUTS, workshop.fingerprints)
    tokenizer = workshop.tokenizer()
    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        report(row)

    trained: list[Trained] | str
    try:
        trained = _train(workshop, tokenizer, directory, note)
    except Diverged as error:
        trained = str(error)
    if distributed.is_main():
        _record(workshop, tokenizer, trained, rows, directory, report)
    distributed.barrier()
    result = read_result(directory)
    if result is None:
        raise UserError(f"{directory}: no result appeared here; a trial's processes must share its folder")
    return result


def _check_inputs(config: TrialConfig, runtime: Runtime, directory: Path, found: dict[str, str]) -> None:
    """Compares fingerprints with those of the trial's first sitting, or else with those of its preparation.

    Raises:
        UserError: images or weights have changed since.
    """
    note, since = directory / INPUTS, "began"
    remedy = f"put it back, or delete {directory} to start over"
    if not note.is_file():
        cache, name = Cache(runtime.cache_dir), _prepared(config)
        cache.fetch(name, anew=True)
        note, since = cache / name, "was prepared"
        remedy = "put it back, or prepare again, as every new call of the sweep does"
    try:
        before: dict[str, str] = json.loads(note.read_text())
    except (OSError, ValueError):
        return
    for name, fingerprint in found.items():
        if before.get(name, fingerprint) != fingerprint:
            where = f" ({config.images.path})" if name.startswith("images_") and config.images.path else ""
            what = f"{name}{where} was {before[name][:12]} and is {fingerprint[:12]} now"
            raise UserError(f"{what}: changed since this trial {since}; {remedy}")


def _record(
    workshop: Workshop,
    tokenizer: Tokenizer,
    trained: list[Trained] | str,
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
        status="finished",
        variant=config.fusion.variant,
        expert_hidden_dim=config.fusion.expert_hidden_dim,
        num_layers=depth,
        seed=config.seed,
        fusion_params=exact_params(tokenizer.fusion),
        fusion_params_paper=paper_params(depth, width, config.fusion.expert_hidden_dim),
        baseline=workshop.baseline,
        provenance=provenance(workshop),
    )
    if isinstance(trained, str):
        result = replace(result, status="diverged", reason=trained)
    else:
        started, cpu_started = time.perf_counter(), time.process_time()
        report({"phase": "evaluation", "note": f"measuring {len(workshop.val)} images"})
        evaluation = workshop.evaluate(tokenizer)
        metrics = dict(evaluation.metrics)
        if config.probe.steps:
            report({"phase": "evaluation", "note": "training the probe"})
            metrics |= probe(workshop, tokenizer, config.probe)
        eval_seconds, eval_cpu = time.perf_counter() - started, time.process_time() - cpu_started
        seconds = sum(phase.seconds for phase in trained)
        cpu = sum(phase.cpu_seconds for phase in trained)
        drop = max((loss_tail_drop(phase.losses) for phase in trained), default=0.0)
        smaller = {
            f"micro_batch.{phase.rows[-1]['phase']}": str(phase.micro_batch) for phase in trained if phase.micro_batch
        }
        unconverged = drop > UNCONVERGED_DROP
        result = replace(
            result,
            status="unconverged" if unconverged else "finished",
            reason=f"training loss still fell by {drop:.1%} over the last fifth" if unconverged else "",
            metrics=metrics,
            eval_images=int(metrics["eval_images"]),
            train_seconds=seconds,
            eval_seconds=eval_seconds,
            device_seconds=cpu + eval_cpu if workshop.device.type == "cpu" else seconds + eval_seconds,
            loss_tail_drop=drop,
            provenance={**result.provenance, **smaller},
        )
        with replacing(directory / "per_image.npz") as path:
            np.savez(path, **dict[str, Any](evaluation.per_image))
        report({"phase": "evaluation", "note": "inspecting the fusion"})
        look = partial(inspect, workshop, tokenizer)
        out_of_memory.fitting(IMAGES, look, "inspection", "looks at so many")[0].save(directory)
    write_atomic(directory / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_json(directory / "result.json", result.to_dict())
    if result.status != "diverged":
        for phase in (PHASE2, PHASE3):
            (directory / f"{phase.name}.pt").unlink(missing_ok=True)


def _train(workshop: Workshop, tokenizer: Tokenizer, directory: Path, note: Report) -> list[Trained]:
    """Phases 2 and 3 in turn; a phase whose weights are already there, and whole, is not trained again."""
    outcomes = []
    for phase in (PHASE2, PHASE3):
        weights = directory / f"{phase.trains}.safetensors"
        log = directory / f"{phase.name}.json"
        # Damaged ones are set aside by one process, on behalf of all.
        whole = distributed.is_main() and read_sealed(weights, read_state) is not None
        if distributed.agreed(whole and read_sealed(log, _read_log) is not None, workshop.device):
            fit_state(phase.trained(tokenizer), read_state(weights), weights, "delete it, and it is trained again")
            outcome = _read_log(log)
            for row in outcome.rows:
                note(row)
        else:
            settings = phase.settings(workshop.config)
            adversary = make_adversary(workshop.config, settings, workshop.device, workshop.config.seed)
            outcome = train_phase(
                tokenizer, phase, settings, workshop.train, workshop.objective, adversary,
                seed=workshop.config.seed, device=workshop.device, checkpoint=directory / f"{phase.name}.pt",
                runtime=workshop.runtime, report=note,
            )  # fmt: skip
            if outcome.steps and distributed.is_main():
                # A later phase that was trained on other weights, set aside since, would not be of this trial.
                for name in ("decoder.safetensors", "phase3.json", "phase3.pt") if phase is PHASE2 else ():
                    (directory / name).unlink(missing_ok=True)
                save_sealed(weights, phase.trained(tokenizer).state_dict())
                write_sealed(log, partial(write_json, tree=asdict(outcome)))
            distributed.barrier()
        if outcome.steps:
            outcomes.append(outcome)
    return outcomes


def _read_log(path: Path) -> Trained:
    return Trained(**json.loads(path.read_text()))


def load_trained(
    directory: str | Path,
    runtime: Runtime,
    config: TrialConfig | None = None,
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[Workshop, Tokenizer]:
    """A finished trial's tokenizer and the workshop it came from.

    `config` replaces the trial's own, for instance with other extractors. `report` gets rows of progress, as
    `open_workshop` has them.

    Raises:
        UserError: the directory holds no finished trial.
    """
    directory = Path(directory)
    result = read_result(directory)
    if result is None:
        raise UserError(f"{directory}: no finished trial here; expected a folder with result.json")
    if result.status == "diverged":
        raise UserError(f"{directory}: the trial diverged and left no weights ({result.reason})")
    workshop = open_workshop(config or load_config(directory / "config.json"), runtime, report)
    tokenizer = workshop.tokenizer()
    for part in ("fusion", "decoder"):
        path = directory / f"{part}.safetensors"
        remedy = "run the trial again in an empty folder"
        if not is_sound(path):
            raise UserError(f"{path}: damaged, its SHA-256 is not the one beside it; {remedy}")
        if path.is_file():
            fit_state(getattr(tokenizer, part), read_state(path), path, remedy)
    return workshop, tokenizer


def reevaluate(
    directory: str | Path,
    extractors: Sequence[str] = (),
    runtime: Runtime | None = None,
    write_references: str | Path | None = None,
    report: Callable[[Row], None] = lambda row: None,
    **settings: Any,
) -> dict[str, float]:
    """Metrics of a finished trial's weights, measured again; nothing is written to its directory.

    Args:
        directory: the trial's folder.
        extractors: names of feature extractors; empty: those of the trial's config.
        runtime: device, threads, cache.
        write_references: folder for the validation images' statistics (`Workshop.write_references`); None: none.
        report: called with rows of progress while images, networks or the phase-1 decoder are made ready.
        settings: other fields of `EvaluationConfig` to change, such as `inception_path`.

    Raises:
        UserError: no finished trial there, or an unknown extractor.
    """
    config = load_config(Path(directory) / "config.json")
    if extractors:
        config = override(config, "evaluation.extractors", tuple(extractors))
    for name, value in settings.items():
        config = override(config, f"evaluation.{name}", value)
    workshop, tokenizer = load_trained(directory, runtime or Runtime(), config, report)
    if write_references is not None:
        workshop.write_references(write_references)
    return workshop.evaluate(tokenizer).metrics

"""The generators of a finished trial's latents: trained beside it, in folders of their own, and opened again.

Neither the trial's hash nor its result knows of them, save of the one that its own config describes
(`drorae.trial.generation`). A generator is known by the trial's hash, its own config, how it
is trained and its seed (`address`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from drorae.config import GeneratorRun, Runtime, config_hash, from_dict, generator_identity, override
from drorae.diagnostics.latents import LatentStatistics
from drorae.errors import UserError
from drorae.generation.guidance import Network
from drorae.generation.training import NAME, GeneratorStepper, TrainingLatents, early_step
from drorae.generation.transformer import DiTDH
from drorae.models.text import TextEncoder, load_text_encoder
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed
from drorae.runtime import distributed, out_of_memory
from drorae.storage.files import file_name, naming_full_disk, write_atomic
from drorae.storage.remote import absolute, expanded
from drorae.storage.sealed import read_sealed
from drorae.training.loop import Clock, DivergenceError, PhaseRun, Report
from drorae.trial.folder import CHECKPOINTS, GENERATOR, GENERATORS_FOLDER, HISTORY, part_file, read_tree, write_tree
from drorae.trial.latents import open_latents
from drorae.trial.reload import load_trained
from drorae.trial.result import read_result
from drorae.trial.shared import Workshop
from drorae.trial.texts import check_captions, open_texts

EARLY, STATISTICS = "early", "statistics"
"""Parts that have files of weights beside the generator's: an earlier average of the same training, and the mean and
deviation of the latents."""


class Spent(NamedTuple):
    """Seconds of a training."""

    seconds: float
    """Wall."""
    cpu_seconds: float


@dataclass(frozen=True)
class Generator:
    """A trained generator behind its tokenizer."""

    directory: Path
    """Its own folder."""
    workshop: Workshop
    tokenizer: Tokenizer
    run: GeneratorRun
    model: DiTDH
    statistics: LatentStatistics
    """Of the latents that it was trained on."""
    classes: int
    """How many there are; 0: it is not told any."""
    steps: int
    loss: float
    """As last reported."""
    text: TextEncoder | None
    """What reads prompts for it; None where it is not told any."""
    earlier: Spent
    """What its training took before it was opened here, in earlier sittings or a pack."""

    @property
    def network(self) -> Network:
        """What samples."""
        return Network(self.model, self.run.model)

    def early(self) -> Network:
        """Returns the same generator as it was early in its training, AutoGuidance's bad model.

        Raises:
            UserError: its weights are missing or damaged.
        """
        path = self.directory / part_file(EARLY)
        model = _build(self.run, self.tokenizer, self.classes, self.text)
        return Network(_filled(model, read_sealed(path, read_state), path, self.workshop.device), self.run.model)


def with_field(run: GeneratorRun, name: str, value: Any) -> GeneratorRun:
    """Returns a run with a field changed, of the generator, of its training, or its seed.

    Raises:
        UserError: no such field, or a value it cannot take.
    """
    known: list[str] = []
    for group in ("model", "training"):
        config = getattr(run, group)
        names = [item.name for item in dataclasses.fields(config)]
        if name in names:
            return replace(run, **{group: override(config, name, value, f"{NAME}.")})
        known += names
    if name != "seed":
        raise UserError(f"{NAME}.{name}: no such field; known here: {', '.join([*known, 'seed'])}")
    return override(run, name, value, f"{NAME}.")


def placed(run: GeneratorRun) -> GeneratorRun:
    """Returns a run that is known by the same hash from whatever folder it is asked for."""
    encoder = run.model.text_encoder
    here = encoder and expanded(encoder).is_dir()
    return with_field(run, "text_encoder", absolute(encoder)) if here else run


def address(trial: str, run: GeneratorRun) -> str:
    """Returns what a generator of a trial, by its hash, is known by, and its folder's name where it has no other."""
    return config_hash({"trial": trial, **generator_identity(run)})


def folder_of(directory: Path, name: str) -> Path:
    """Returns the folder of a trial's generator."""
    return directory / GENERATORS_FOLDER / file_name(name)


def begun_run(directory: Path, name: str) -> GeneratorRun | None:
    """Returns what a trial's generator of this name was begun as; None where there is none.

    Raises:
        UserError: its record is damaged.
    """
    tree = _record(folder_of(directory, name))
    return None if tree is None else from_dict(GeneratorRun, tree["run"], f"{NAME}.")


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return read_tree(folder, GENERATOR)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder / GENERATOR}: damaged ({error}); rename {folder}, or use another --name") from None


def ready_generator(
    directory: str | Path,
    run: GeneratorRun,
    name: str = "",
    runtime: Runtime | None = None,
    report: Report = lambda row: None,
) -> Generator:
    """Opens a generator of a finished trial; trains it first where it is not there, or goes on where it was stopped.

    Args:
        directory: the trial's folder, in which nothing but the generator's own folder changes.
        run: what it is and how it is trained.
        name: of its folder; empty: its address.
        runtime: device, threads, cache, checkpoints.
        report: called with rows of progress, as of a phase.

    Raises:
        UserError: no finished trial there, another generator of this name, images without labels or captions where
            those are told, no such text encoder or another than before, a training that diverges, or too little room.
    """
    directory = Path(directory)
    result = read_result(directory)
    trial = result.config_hash if result is not None else ""
    # Refuses another's folder before anything is loaded.
    checked_folder(directory, trial, run, name)
    workshop, tokenizer = load_trained(directory, runtime or Runtime(), report=report)
    return generator_of(directory, trial, run, workshop, tokenizer, name, report)


def checked_folder(directory: Path, trial: str, run: GeneratorRun, name: str = "") -> Path:
    """Returns the folder of a generator.

    Raises:
        UserError: it holds another.
    """
    run.check()
    folder = folder_of(directory, name or address(trial, run))
    known, found = _known(trial, run), _record(folder)
    if found is not None and {part: found.get(part) for part in known} != known:
        raise UserError(
            f"{folder}: holds another generator, or one of another trial; choose another --name, or leave out what "
            "describes it to take it as it is"
        )
    return folder


def _known(trial: str, run: GeneratorRun) -> dict[str, Any]:
    """What a generator's record says of it before it is trained."""
    return {"trial": trial, "run": generator_identity(run)}


def generator_of(
    directory: Path,
    trial: str,
    run: GeneratorRun,
    workshop: Workshop,
    tokenizer: Tokenizer,
    name: str = "",
    report: Report = lambda row: None,
) -> Generator:
    """As `ready_generator`, of a trained tokenizer that is at hand; in all processes of a trial alike.

    Args:
        directory: the trial's folder.
        trial: its hash.
        run: what the generator is and how it is trained.
        workshop: the trial's.
        tokenizer: as the trial leaves it.
        name: of the generator's folder; empty: its address.
        report: called with rows of progress.

    Raises:
        UserError: as `ready_generator`.
    """
    folder = checked_folder(directory, trial, run, name)
    path, text, earlier = folder / part_file(NAME), text_encoder_of(run, workshop), None
    with naming_full_disk(folder), out_of_memory.as_user_error(NAME):
        folder.mkdir(parents=True, exist_ok=True)
        with distributed.main_lock(FileLock(folder / ".lock")):
            # Damaged files are set aside by one process, on behalf of all.
            weights = read_sealed(path, read_state) if distributed.is_main() else None
            if distributed.from_main(weights is None or not is_finished(folder)):
                earlier = _train(folder, trial, run, workshop, tokenizer, text, report)
                weights = None
            weights, found = weights or read_state(path), _record(folder)
    assert found is not None  # _train has written it
    if text is not None and found["text_encoder"] != text.fingerprint:
        raise UserError(f"{text.name}: another text encoder than {folder} was trained with; put that one back")
    model = _build(run, tokenizer, found["classes"], text)
    statistics = read_state(folder / part_file(STATISTICS))
    return Generator(
        folder, workshop, tokenizer, run, _filled(model, weights, path, workshop.device),
        LatentStatistics(statistics["mean"], statistics["std"], found["latent_images"]), found["classes"],
        found["steps"], found["loss"], text, earlier or Spent(found["seconds"], found["cpu_seconds"]),
    )  # fmt: skip


def is_finished(folder: Path) -> bool:
    """Says whether a generator is trained, by its record and that its weights are there, however they are."""
    return "steps" in (_record(folder) or {}) and (folder / part_file(NAME)).is_file()


def text_encoder_of(run: GeneratorRun, workshop: Workshop) -> TextEncoder | None:
    """Returns what reads captions for a generator that is told them."""
    if run.model.condition != "text":
        return None
    return load_text_encoder(run.model.text_encoder, run.model.text_tokens, workshop.device)


def _build(run: GeneratorRun, tokenizer: Tokenizer, classes: int, text: TextEncoder | None) -> DiTDH:
    """A generator of fresh weights, a function of its config and seed."""
    text_width = 0 if text is None else text.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return DiTDH(run.model, tokenizer.encoder.width, tokenizer.encoder.grid, classes, text_width)


def _filled(model: DiTDH, state: dict[str, Tensor] | None, path: Path, device: torch.device) -> DiTDH:
    """A model with the weights that a file holds."""
    if state is None:
        raise UserError(f"{path}: missing or damaged; rename {path.parent}, and the generator is trained again")
    fit_state(model, state, path, f"rename {path.parent}, and the generator is trained again")
    return model.to(device).requires_grad_(False).eval()


def _train(
    folder: Path, trial: str, run: GeneratorRun, workshop: Workshop, tokenizer: Tokenizer,
    text: TextEncoder | None, report: Report,
) -> Spent:  # fmt: skip
    """Trains a generator and leaves all its files; returns what its checkpoint, if there was one, had taken."""
    training, record = begin_generator(folder, trial, run, workshop, tokenizer, text, report)
    earlier = Spent(training.record.seconds, training.record.cpu_seconds)
    try:
        trained = training.to_the_end()
    except DivergenceError as error:
        raise UserError(f"{error}; nothing is sampled from a generator that diverged") from None
    if distributed.is_main():
        write_atomic(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in trained.rows).encode())
        save_sealed(folder / part_file(NAME), training.stepper.module.state_dict())
        ended = {"steps": trained.steps, "seconds": trained.seconds, "cpu_seconds": trained.cpu_seconds}
        ended |= {"packed": trained.packed} if trained.packed else {}
        write_tree(folder, GENERATOR, record | ended | {"loss": trained.rows[-1]["loss"]})
        training.checkpoint.unlink(missing_ok=True)
    distributed.barrier()
    return earlier


def begin_generator(
    folder: Path,
    trial: str,
    run: GeneratorRun,
    workshop: Workshop,
    tokenizer: Tokenizer,
    text: TextEncoder | None,
    report: Report,
    share: float = 1.0,
    clock: Clock | None = None,
) -> tuple[PhaseRun[GeneratorStepper], dict[str, Any]]:
    """Returns a training as its checkpoint, if there is one, has left it, and the generator's record so far.

    Args:
        folder: the generator's (`checked_folder`), locked by the caller.
        trial: the trial's hash.
        run: what the generator is and how it is trained.
        workshop: the trial's.
        tokenizer: as the trial leaves it.
        text: what reads captions for it (`text_encoder_of`).
        report: called with rows of progress.
        share: of the time that passes, the part that is this generator's.
        clock: of all that are trained together; None: of this one alone.

    Raises:
        UserError: as `ready_generator`.
    """
    known = _known(trial, run)
    captions = None if text is None else check_captions(workshop.images.train.captions)
    latents = open_latents(workshop, tokenizer, report)
    classes = latents.classes if run.model.condition == "class" else 0
    # Refuses what does not go together before the latents are gone through.
    model = _build(run, tokenizer, classes, text).to(workshop.device)
    source, take_texts = latents.address, None
    if text is not None and captions is not None:
        texts = open_texts(captions, text, workshop.runtime, report)
        source, take_texts = config_hash({"latents": source, "texts": texts.address}), texts.take
        known = known | {"text_encoder": text.fingerprint}
    before = _record(folder)
    if before is not None and before["latents"] != source:
        raise UserError(f"{folder}: images or weights have changed since its training began; put them back")
    statistics = latents.statistics()
    record = known | {"classes": classes, "latents": source, "latent_images": statistics.images}
    if distributed.is_main():
        write_tree(folder, GENERATOR, record)
        save_sealed(folder / part_file(STATISTICS), {"mean": statistics.mean, "std": statistics.std})
    data = TrainingLatents(len(latents.array) // 2, latents.take, statistics.normalise, latents.labels, take_texts)
    stepper = GeneratorStepper(model, run, data, workshop.device, workshop.runtime)
    checkpoint = folder / CHECKPOINTS.replace("*", "checkpoint")
    early = _keeps_early(folder, stepper)
    return PhaseRun(stepper, workshop.runtime, checkpoint, report, share, clock=clock, after=early), record


def _keeps_early(folder: Path, stepper: GeneratorStepper) -> Callable[[int], None]:
    """What keeps AutoGuidance's bad model, when called after each step with how many were taken."""

    def keep(steps: int) -> None:
        if steps == early_step(stepper.total) and distributed.is_main():
            save_sealed(folder / part_file(EARLY), stepper.weights())

    return keep

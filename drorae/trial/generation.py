"""A trial's own generator: trained behind its tokenizer, and what it draws measured as part of the trial."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from drorae.config import GenerationConfig, GeneratorRun, TrialConfig, config_hash, load_config
from drorae.errors import UserError
from drorae.generation.drawing import Drawing
from drorae.generation.guidance import Guidance
from drorae.metrics.controls import Controls
from drorae.metrics.registry import GENERATOR_LOSS, guided
from drorae.models.text import load_text_encoder
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed
from drorae.storage.files import replacing
from drorae.training.loop import Report
from drorae.trial.folder import CONFIG, GENERATED_PICTURE, GRID
from drorae.trial.generated import Generated, measure_samples, read_yardsticks
from drorae.trial.generator import Generator, address, begun_run, generator_of, placed
from drorae.trial.result import read_result
from drorae.trial.samples import sample
from drorae.trial.shared import Workshop
from drorae.trial.texts import check_captions


@dataclass(frozen=True)
class Generation:
    """What a trial's generator adds to its result; nothing, where the trial has none."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Of the first guidance by their own names, of others behind the guidance's; the controls' distances, which are
    the same for all; and the training's last loss."""
    verdicts: dict[str, str] = field(default_factory=dict)
    """For the result's provenance: what the controls say of each guidance's samples."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def check_generation(workshop: Workshop) -> dict[str, str]:
    """Returns the fingerprints of what a trial's generator reads beside the workshop's: of a text encoder, if any.

    Raises:
        UserError: it cannot be trained on the trial's images, or there is no such text encoder.
    """
    settings, images = workshop.config.generator, workshop.images
    if not settings.epochs:
        return {}
    if settings.condition == "text":
        check_captions(images.train.captions)
        check_captions(images.val.captions)
        encoder = load_text_encoder(settings.text_encoder, settings.text_tokens, torch.device("cpu"))
        return {"text_encoder": encoder.fingerprint}
    if images.train.labels is None and settings.condition == "class":
        raise UserError(
            "generator.condition=class needs labels, and the images have none; use generator.condition=none"
        )
    if images.train.labels is None and any(text.startswith("cfg=") for text in settings.guidance):
        raise UserError("generator.guidance: cfg needs labels, and the images have none; use autoguidance")
    return {}


def generator_run(workshop: Workshop) -> GeneratorRun:
    """Returns what a trial's own generator is and how it is trained."""
    return _run(workshop.config, workshop.images.train.labels is not None)


def own_run(directory: Path) -> GeneratorRun | None:
    """Returns what a finished trial's own generator was begun as; None where it has none, or it is gone.

    Raises:
        UserError: a record is damaged.
    """
    result = read_result(directory)
    if result is None:
        return None
    config = load_config(directory / CONFIG)
    if not config.generator.epochs:
        return None
    # Whether its images have classes is known to who opens them, and to the folder that is there.
    runs = (_run(config, labelled) for labelled in (True, False))
    return next((run for run in runs if begun_run(directory, address(result.config_hash, run)) is not None), None)


def _run(config: TrialConfig, labelled: bool) -> GeneratorRun:
    return placed(config.generator.run(config.seed, labelled))


def measure_generation(workshop: Workshop, tokenizer: Tokenizer, directory: Path, report: Report) -> Generation:
    """Trains a trial's generator, draws with it and measures what it draws, in all of the trial's processes.

    Args:
        workshop: the trial's.
        tokenizer: trained.
        directory: the trial's folder; gets the generator's, and a picture of the samples of each guidance.
        report: called with rows of progress.

    Raises:
        UserError: the generator diverges, or there is too little room.
    """
    config = workshop.config
    settings = config.generator
    if not settings.epochs:
        return Generation()
    started, cpu_started = time.perf_counter(), time.process_time()
    tokenizer.requires_grad_(False).eval()
    report({"phase": "latents", "note": "fusing latents"})
    run = generator_run(workshop)
    generator = generator_of(directory, config_hash(config), run, workshop, tokenizer, report=report)
    metrics, verdicts = _measured(generator, settings, directory, report)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    earlier = generator.earlier
    return Generation(metrics, verdicts, seconds + earlier.seconds, cpu_seconds + earlier.cpu_seconds)


def _measured(
    generator: Generator, settings: GenerationConfig, directory: Path, report: Report
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics and verdicts of a `Generation`."""
    metrics: dict[str, float] = {GENERATOR_LOSS: generator.loss}
    verdicts: dict[str, str] = {}
    asked = _asked(generator, settings.samples)
    yardsticks = read_yardsticks(generator, settings.samples, generator.run.seed, report)
    for text in settings.guidance:
        guidance = Guidance.parse(text)
        drawing = Drawing(
            settings.samples, (), settings.steps, settings.method, guidance, generator.run.seed,
            prompts=asked.prompts,
        )  # fmt: skip
        own = report if text == settings.guidance[0] else _behind(guided(text), report)
        folder, sink = sample(generator, drawing, report=own)
        found = measure_samples(yardsticks, sink, folder, own, asked.labels)
        prefix = "" if text == settings.guidance[0] else guided(str(guidance))
        metrics |= {prefix + name: value for name, value in found.metrics.items()}
        metrics |= _controls(found)
        verdicts |= _verdicts(prefix, found.controls)
        if distributed.is_main():
            with replacing(directory / GENERATED_PICTURE.format(str(guidance).replace("=", "_"))) as path:
                path.write_bytes((folder / GRID).read_bytes())
    return metrics, verdicts


def _behind(prefix: str, report: Report) -> Report:
    """What reports rows under a phase of their own, so that those of further guidances are told apart."""
    return lambda row: report(row | {"phase": f"{prefix}{row['phase']}"})


class _Asked(NamedTuple):
    """What images are asked for: prompts, and the class of each image, as far as there are any."""

    prompts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def _asked(generator: Generator, count: int) -> _Asked:
    """So many of all classes by turns; or of a generator that is told captions, those of the validation images."""
    if generator.text is None:
        return _Asked(labels=tuple(Drawing(count).labels(generator.classes)))
    val = generator.workshop.images.val
    captions, labels = check_captions(val.captions), val.labels
    said = [image for image, caption in enumerate(captions) if caption.strip()]
    # Spread over them all: they may lie class by class.
    said = [said[place] for place in np.linspace(0, len(said) - 1, min(count, len(said))).astype(int)]
    by_turns = [said[number % len(said)] for number in range(count)]
    return _Asked(
        tuple(captions[image] for image in said),
        () if labels is None else tuple(int(labels[image]) for image in by_turns),
    )


def _controls(found: Generated) -> dict[str, float]:
    """What generated images' metrics are read beside."""
    sets = {name: getattr(found.controls, name) for name in ("real", "reconstructions", "gaussian")}
    return {f"{found.extractor}_{name}": one.value for name, one in sets.items()} | found.accuracies


def _verdicts(prefix: str, controls: Controls) -> dict[str, str]:
    return {
        f"{prefix}generator.learned": str(controls.learned),
        f"{prefix}generator.memorised": str(controls.memorised),
    }

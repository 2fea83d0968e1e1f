"""A finished trial's tokenizer, and its metrics measured again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from drorae.config import Module, Runtime, TrialConfig, load_config, override
from drorae.errors import Notice, UserError
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import fit_state, read_state
from drorae.storage.sealed import is_sound
from drorae.training.loop import Row
from drorae.training.phases import part_of
from drorae.trial.folder import CONFIG, RESULT, TrialStatus, part_file
from drorae.trial.result import TrialResult, read_result
from drorae.trial.shared import DECODER_REMEDY, Workshop, decoder_place, open_workshop
from drorae.trial.weights import final_files, own_digests

AGAIN = "run the trial again in an empty folder"


def load_trained(
    directory: str | Path,
    runtime: Runtime,
    config: TrialConfig | None = None,
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[Workshop, Tokenizer]:
    """Loads a finished trial's tokenizer; returns the workshop it came from, and it.

    Args:
        directory: the trial's folder.
        runtime: device, threads, cache.
        config: replaces the trial's own, for instance with other extractors; None: the trial's own.
        report: gets rows of progress, as `open_workshop` has them.

    Raises:
        UserError: the directory holds no finished trial; weights that it trained are missing, damaged or not those
            that it was measured with; the phase-1 decoder found is another than the trial's.
    """
    directory = Path(directory)
    result = read_result(directory)
    if result is None:
        raise UserError(f"{directory}: no finished trial here; expected a folder with {RESULT}")
    if result.status == TrialStatus.DIVERGED:
        raise UserError(f"{directory}: the trial diverged and left no weights ({result.reason})")
    config = config or load_config(directory / CONFIG)
    files = final_files(config, bool(result.fusion_params), directory)
    _check_files(files)
    check = partial(_check_decoder, config, runtime, directory, result)
    workshop = open_workshop(config, runtime, report, check, training=False)
    tokenizer = workshop.tokenizer()
    for part, path in files.items():
        fit_state(part_of(tokenizer, part), read_state(path), path, AGAIN)
    for name, found in own_digests(config, tokenizer).items():
        if result.weights.get(name, found) != found:
            raise UserError(
                f"{directory / part_file(name)}: the {name}'s weights ({found[:12]}) are not those that the trial was "
                f"measured with ({result.weights[name][:12]}); put them back, or {AGAIN}"
            )
    return workshop, tokenizer


def _check_files(files: Mapping[Module, Path]) -> None:
    """Refuses weights that a finished trial trained and that are missing or damaged."""
    for part, path in files.items():
        if not path.is_file():
            raise UserError(
                f"{path}: missing, and without it the trial's {part} is not the one that it trained; put the file "
                f"back, or {AGAIN}"
            )
        if not is_sound(path):
            raise UserError(f"{path}: damaged, its SHA-256 is not the one beside it; {AGAIN}")


def _check_decoder(
    config: TrialConfig, runtime: Runtime, directory: Path, result: TrialResult, found: dict[str, str]
) -> None:
    """Refuses an encoder or a phase-1 decoder whose weights are not those that a finished trial started from."""
    if "phase1_weights" not in found:
        return
    encoder = result.provenance.get("fingerprint.encoder", found["encoder"])
    if encoder != found["encoder"]:
        raise UserError(
            f"{directory}: trained on the encoder {encoder}, found {found['encoder']}; put that one back, or {AGAIN}"
        )
    place = decoder_place(config, runtime, found)
    if not result.weights:
        warnings.warn(
            f"{directory}: the result keeps no SHA-256 of its weights; the phase-1 decoder of {place} is taken for its "
            "own",
            Notice,
            stacklevel=2,
        )
    expected = result.weights.get("phase1_decoder", found["phase1_weights"])
    if expected != found["phase1_weights"]:
        raise UserError(
            f"{directory}: started from another phase-1 decoder ({expected[:12]}) than {place} holds "
            f"({found['phase1_weights'][:12]}); {DECODER_REMEDY}, or {AGAIN}"
        )


def reevaluate(
    directory: str | Path,
    extractors: Sequence[str] = (),
    runtime: Runtime | None = None,
    write_references: str | Path | None = None,
    report: Callable[[Row], None] = lambda row: None,
    **settings: Any,
) -> dict[str, float]:
    """Measures a finished trial's weights again and returns the metrics; nothing is written to its directory.

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
    config = load_config(Path(directory) / CONFIG)
    if extractors:
        config = override(config, "evaluation.extractors", tuple(extractors))
    for name, value in settings.items():
        config = override(config, f"evaluation.{name}", value)
    workshop, tokenizer = load_trained(directory, runtime or Runtime(), config, report)
    if write_references is not None:
        workshop.write_references(write_references)
    return workshop.evaluate(tokenizer).metrics

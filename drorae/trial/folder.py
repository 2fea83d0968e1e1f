"""A trial's folder: its files and what each is for, the statuses a trial can have, and reading its outcome.

Nothing else names these files. The sets that a store or MLflow gets are computed from `FILES`.
"""

from __future__ import annotations

import json
import math
from enum import Flag, StrEnum, auto
from pathlib import Path
from typing import Any

from drorae.config import TrialConfig, to_dict
from drorae.errors import UserError, one_line
from drorae.storage.files import write_json
from drorae.storage.layout import stamp, unstamp
from drorae.storage.sealed import set_aside

CONFIG = "config.json"
RESULT = "result.json"
FAILURE = "failure.json"
PRUNED = "pruned.json"
INPUTS = "inputs.json"
"""Fingerprints of the images and weights that the trial is made from."""
PROGRESS = "progress.json"
REACHED = "reached.json"
"""How far any attempt at the trial got."""
HISTORY = "history.jsonl"
PER_IMAGE = "per_image.npz"
INSPECTION = "inspection.json"
INSPECTION_ARRAYS = "inspection.npz"
SAMPLES = "samples.npz"
GRID = "grid.png"
GENERATED_PICTURE = "generated.{}.png"
"""Of a guidance, by its name: the first images that the trial's own generator draws with it."""
GENERATED = "generated.json"
"""Beside a set of samples: what was measured of them, and of their controls."""
SAMPLED = "samples.json"
"""Beside generated images: how they were sampled."""
HELD_OUT_PICTURE = "held_out.{}.png"
"""Of a phase, by its name: held-out images and their reconstructions, as they last were while it trained. Phase 1's is
in the cache, beside its decoder."""
WARNINGS = "warnings.txt"
SPOOL = "spool.jsonl"
"""Rows that wait for an MLflow that is away."""
PICTURE_SPOOL = "spool.zip"
"""Pictures that do."""
LEASE = "worker.lease"
LAST_WORDS = "last_words.txt"
"""What a worker's process that dies leaves of why."""
WEIGHTS = "{}.safetensors"
"""Of a part of the tokenizer, by its name."""
DECODER = WEIGHTS.format("decoder")
"""In the cache, a phase-1 decoder has this name, too."""
HEADS = "heads.safetensors"
"""Of the phase-1 discriminator, in the cache; in a trial's folder they have their phase's name before it."""
GENERATORS_FOLDER = "generator"
"""Below it, a folder for each generator of the trial's latents, by its name."""
GENERATOR = "generator.json"
"""In a generator's folder: what it is and what it was trained on. Its weights are `part_file("generator")`."""
ERRORS = "error-*.txt"
CHECKPOINTS = "*.pt"


class TrialStatus(StrEnum):
    """What a trial can be."""

    FINISHED = auto()
    UNCONVERGED = auto()
    """Measured by an older version, which took its training loss for still falling. No trial gets it any more."""
    DIVERGED = auto()
    """Its loss stopped being finite."""
    PRUNED = auto()
    """Stopped early."""
    FAILED = auto()
    NONFINITE = auto()
    """Measured, but a metric is NaN or infinite."""
    NO_RESULT = auto()
    """It came to its end and left no result."""
    STALLED = auto()
    """It made no step for long, in several attempts."""
    NOT_NEEDED = auto()
    """Never run, because what the sweep is for was decided without it."""
    RUNNING = auto()
    MISSING = auto()
    """None of the others: not begun, interrupted, or its result is damaged."""


ENDED = (
    TrialStatus.FINISHED,
    TrialStatus.UNCONVERGED,
    TrialStatus.DIVERGED,
    TrialStatus.NONFINITE,
    TrialStatus.PRUNED,
)
"""What a rerun leaves alone."""
BROKEN = (TrialStatus.FAILED, TrialStatus.NO_RESULT, TrialStatus.STALLED)
"""Without a result, by a fault that a rerun may not meet again."""
MEASURED = (TrialStatus.FINISHED, TrialStatus.UNCONVERGED)
"""With metrics."""
UNMADE = (TrialStatus.MISSING, TrialStatus.NOT_NEEDED)
"""Of which nothing has been made, unless by an attempt that was interrupted."""


class Use(Flag):
    """What a file is for."""

    STATE = auto()
    """Tells the state of the trial."""
    DRIVER = auto()
    """Tells the sweep's driver something else."""
    ARTIFACT = auto()
    """Is kept with the run in MLflow as it is."""
    DRAWN = auto()
    """Pictures are drawn from it, or it is one."""
    PASSING = auto()
    """Is removed in the course of work. Whatever else vanishes from a copy of the folder stays in the store."""


FILES = {
    CONFIG: Use.STATE | Use.ARTIFACT,
    RESULT: Use.STATE | Use.ARTIFACT,
    FAILURE: Use.STATE | Use.PASSING,
    PRUNED: Use.STATE,
    PROGRESS: Use.STATE,
    INPUTS: Use.DRIVER,
    REACHED: Use.DRIVER,
    LAST_WORDS: Use.DRIVER | Use.PASSING,
    ERRORS: Use.DRIVER | Use.PASSING,
    WARNINGS: Use.DRIVER | Use.PASSING,
    SPOOL: Use.DRIVER | Use.PASSING,
    PICTURE_SPOOL: Use.DRIVER | Use.PASSING,
    PER_IMAGE: Use.ARTIFACT,
    HISTORY: Use.ARTIFACT,
    INSPECTION: Use.ARTIFACT,
    INSPECTION_ARRAYS: Use.ARTIFACT,
    SAMPLES: Use.DRAWN,
    "*.png": Use.DRAWN,
    CHECKPOINTS: Use.PASSING,
}
"""Names, or patterns of names, by use. Weights and phases' logs are the trial's own affair."""
SENT_LAST = RESULT
"""Nobody ever sees a result without what belongs to it."""
SCHEMAS = {RESULT: 2, FAILURE: 1, PRUNED: 1, INPUTS: 1, PROGRESS: 1, GENERATOR: 1, SAMPLED: 1, GENERATED: 1}
"""Version of each JSON file's layout. It is raised when an older drorae would misread the file."""
SKIPPED = "images_skipped"
"""Name of the note, in a result's provenance, on image files that were left out; in tables a column."""
ROLE = "role"
"""Name of what a trial is there for where it is no point of a sweep's law: a column of tables, a tag in MLflow."""
CHECKS_CONVERGENCE = "convergence"
"""Role of a trial that repeats another with more epochs."""
_REQUIRED = (
    "config_hash", "status", "variant", "expert_hidden_dim", "num_layers", "seed", "fusion_params",
    "fusion_params_paper",
)  # fmt: skip
_NUMBERS = ("metrics", "baseline", "gain")
"""What every result has, and which of its parts hold numbers by name."""


def part_file(part: str, phase: str = "") -> str:
    """Returns the name of the file of a part's weights; with a phase, as that one left them and not as in the end."""
    return WEIGHTS.format(f"{phase}.{part}" if phase else part)


def files_for(use: Use) -> tuple[str, ...]:
    """Returns the names and patterns of the files of any of these uses."""
    return tuple(name for name, uses in FILES.items() if uses & use)


def write_tree(directory: Path, name: str, tree: dict[str, Any]) -> None:
    """Writes one of the folder's JSON files atomically, with the version of its layout and drorae's."""
    write_json(directory / name, stamp(SCHEMAS[name]) | tree)


def read_tree(directory: Path, name: str) -> dict[str, Any]:
    """Reads one of the folder's JSON files.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged.
        UserError: a newer drorae wrote it, or the disk does not give it out.
    """
    path = directory / name
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); mend that and run again") from None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    try:
        unstamp(tree, SCHEMAS[name])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return tree


def read_outcome(directory: Path) -> dict[str, Any]:
    """Reads what a trial's folder says of it: the dictionary of result.json, or that of pruned.json or failure.json.

    It always has `status` and `reason`. The status is missing where there is none of the files, and where the one there
    is is damaged, which the reason says: running that trial again mends it.

    Raises:
        UserError: the disk does not give the file out, or a newer drorae wrote it.
    """
    return _outcome(directory)[0]


def set_damaged_aside(directory: Path) -> None:
    """Moves a damaged result of a trial out of the way of another attempt; the weights beside it stay."""
    damaged = _outcome(directory)[1]
    if damaged is not None:
        set_aside(damaged, "unreadable")


def _outcome(directory: Path) -> tuple[dict[str, Any], Path | None]:
    """What `read_outcome` returns, and the damaged file."""
    for name, status in ((RESULT, None), (PRUNED, TrialStatus.PRUNED), (FAILURE, TrialStatus.FAILED)):
        try:
            tree = read_tree(directory, name)
            if status is None:
                return _checked(tree), None
            return {"status": TrialStatus(tree.get("status", status)), "reason": str(tree["reason"])}, None
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            remedy = "the trial counts as not finished; run the sweep again, which mends it alone"
            reason = f"{name} is damaged ({one_line(error)}); {remedy}"
            return {"status": TrialStatus.MISSING, "reason": reason}, directory / name
    return {"status": TrialStatus.MISSING, "reason": ""}, None


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """A result with everything that one cannot be without.

    Raises:
        ValueError, TypeError: it is none.
    """
    if not all(isinstance(result.get(name, {}), dict) for name in _NUMBERS):
        raise ValueError("not a trial's result")
    if lacking := [name for name in _REQUIRED if name not in result]:
        raise ValueError(f"no {lacking[0]}")
    for value in (value for name in _NUMBERS for value in result.get(name, {}).values()):
        float(value)
    return judged(result)


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """Returns a result with the status that its metrics allow: whoever measured them may not have looked.

    Raises:
        KeyError, ValueError, TypeError: it is none.
    """
    status = TrialStatus(result["status"])
    wrong = [f"{name} is {value}" for name, value in result.get("metrics", {}).items() if not math.isfinite(value)]
    if wrong and status in MEASURED:
        return result | {"status": TrialStatus.NONFINITE, "reason": ", ".join(wrong)}
    return result | {"status": status}


def ready_trial(directory: Path, config: TrialConfig) -> None:
    """Readies a trial's folder for another attempt: writes its config, removes what the last one failed of."""
    write_json(directory / CONFIG, to_dict(config))
    for path in (directory / FAILURE, directory / LAST_WORDS, *directory.glob(ERRORS)):
        path.unlink(missing_ok=True)


def write_ending(directory: Path, status: TrialStatus, reason: str) -> None:
    """Records why a trial without a result is broken or not needed, or that it was pruned."""
    if status == TrialStatus.PRUNED:
        write_tree(directory, PRUNED, {"reason": reason})
    else:
        write_tree(directory, FAILURE, {"status": status, "reason": reason})


def error_files(directory: Path) -> list[Path]:
    """Returns the tracebacks that attempts left, oldest first."""
    return sorted(directory.glob(ERRORS))


def error_file(directory: Path, attempt: int) -> Path:
    """Returns where an attempt, counted from 0, leaves its traceback."""
    return directory / ERRORS.replace("*", f"{attempt:03d}")

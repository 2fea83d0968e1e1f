"""What a trial measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from drorae.errors import UserError
from drorae.storage.files import naming_full_disk
from drorae.trial.folder import RESULT, TrialStatus, judged, read_tree, write_tree

_FORMER = "loss_tail_drop"
"""What earlier versions wrote of the tail of the training loss, which an annealed learning rate flattens anyway."""

PACKED = "packed.phase2"
"""In a result's provenance: how many trials phase 2 was trained for at once."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial measured; `result.json` in its directory."""

    config_hash: str
    status: TrialStatus
    """Finished, nonfinite or diverged; unconverged in results of older versions."""
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
    gain: dict[str, float] = field(default_factory=dict)
    """By how much each metric is better than the baseline's, and under ..._se the standard error of that over images
    (`drorae.metrics.gain`). Empty without a baseline, and in results of older versions."""
    eval_images: int = 0
    train_seconds: float = 0.0
    """Wall seconds of phases 2 and 3, all sittings."""
    eval_seconds: float = 0.0
    """Wall seconds of the metrics, the probe among them."""
    device_seconds: float = 0.0
    """CPU: processor seconds of training, evaluation and the trial's generator; CUDA: their wall seconds."""
    train_flops: float = 0.0
    """Floating-point operations of phases 2 and 3 (`drorae.machine.needs.train_flops`); 0 in older results."""
    reason: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    """SHA-256 (`drorae.models.weights.state_sha256`) of `phase1_decoder`, of `fusion` as it was measured, and of
    `decoder` where there was a phase 3; empty in results of older versions."""
    provenance: dict[str, str] = field(default_factory=dict)


def read_result(directory: str | Path) -> TrialResult | None:
    """Reads the result in a trial's directory; None while there is none.

    Raises:
        UserError: it is damaged, or a newer drorae wrote it.
    """
    path = Path(directory) / RESULT
    try:
        tree = read_tree(path.parent, RESULT)
        return TrialResult(**{name: value for name, value in judged(tree).items() if name != _FORMER})
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a trial's result ({error}); run the trial again, which sets it aside") from None


def add_metrics(directory: str | Path, metrics: Mapping[str, float], provenance: Mapping[str, str]) -> None:
    """Puts metrics that others measured of a finished trial into its result, in place of those of the same names.

    All else in it stays as it is. A sweep's table and MLflow have them once the sweep was resumed, which records
    results that are no more what they were.

    Args:
        directory: the trial's folder.
        metrics: by name.
        provenance: where they come from.

    Raises:
        UserError: no finished trial there, or it diverged.
    """
    directory = Path(directory)
    with naming_full_disk(directory), FileLock(directory / ".lock"):
        result = read_result(directory)
        if result is None:
            raise UserError(f"{directory}: no finished trial here; expected a folder with {RESULT}")
        if result.status == TrialStatus.DIVERGED:
            raise UserError(f"{directory}: the trial diverged ({result.reason}); nothing is measured of it")
        tree = read_tree(directory, RESULT)
        for name, found in (("metrics", metrics), ("provenance", provenance)):
            tree[name] = tree.get(name, {}) | dict(found)
        write_tree(directory, RESULT, tree)

"""The training loop of a phase: steps, reports, checkpoints, and the end of a run that diverges."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drorae.config import Phase, Runtime
from drorae.data.features import Features
from drorae.errors import UserError, brief
from drorae.losses.objective import Objective
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.training.adversary import Adversary
from drorae.training.checkpoint import load_checkpoint, save_checkpoint
from drorae.training.phases import freeze_all_but
from drorae.training.schedule import learning_rate
from drorae.training.step import Stepper

Row = dict[str, float | str]
Report = Callable[[Row], None]


class DivergenceError(Exception):
    """A loss or a weight stopped being a finite number; the message says at which step.

    The last checkpoint is from before.
    """


@dataclass
class TrainingRecord:
    """What a phase leaves beside the weights in the tokenizer."""

    steps: int = 0
    seconds: float = 0.0
    """Wall seconds of all sittings."""
    cpu_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Loss of every step."""
    rows: list[Row] = field(default_factory=list)
    """Everything reported."""
    micro_batch: int = 0
    """Images at once, where memory did not hold as many as asked for; 0: it did."""


def train_phase(
    tokenizer: Tokenizer,
    phase: Phase,
    features: Features,
    objective: Objective,
    adversary: Adversary | None = None,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    runtime: Runtime,
    report: Report,
) -> TrainingRecord:
    """Trains the phase's parts in place, from the checkpoint if there is one.

    An interrupted run that is started again ends with the same weights, to the bit on one CPU, as one that was
    not interrupted: model, optimiser, average, discriminator and position are saved together, and everything random
    in a step is seeded by its number. On resuming, the rows already reported are reported again first. Incomplete
    last batches are left out.

    Where torch.distributed is set up, each process takes an equal part of every batch, all report the same losses,
    those of the whole batch, and the main one saves.

    Args:
        tokenizer: whose parts are trained.
        phase: what trains, on which latent, and how it is optimised.
        features: the training items.
        objective: the loss without its adversarial term.
        adversary: its adversarial term; None: there is none.
        seed: seeds the order of the items and what is random in a step.
        device: where the networks are.
        checkpoint: file to resume from and to write to.
        runtime: how often to save and report, and images at once.
        report: hears of the losses.

    Raises:
        DivergenceError: a loss or a weight became infinite or not a number.
        UserError: the checkpoint does not fit, there are no images for one batch, the batch cannot be shared out, or
            memory does not hold one image.
    """
    module = freeze_all_but(tokenizer, phase)
    if phase.settings.epochs == 0 or not any(parameter.requires_grad for parameter in module.parameters()):
        return TrainingRecord()
    stepper = Stepper(tokenizer, phase, features, objective, adversary, seed=seed, device=device, runtime=runtime)
    whole = stepper.micro_batch
    record = _resume(checkpoint, stepper)
    for earlier in record.rows:
        report(earlier)
    _take_steps(stepper, record, whole, checkpoint, runtime, report)
    if stepper.average is not None:
        stepper.average.copy_to(module)
    tokenizer.requires_grad_(False).eval()
    return record


def _take_steps(
    stepper: Stepper, record: TrainingRecord, whole: int, checkpoint: Path, runtime: Runtime, report: Report
) -> None:
    """Takes the steps that `record` has not, and keeps it up to date; `whole` images at once were asked for."""
    saved = reported = time.perf_counter()
    began, cpu_began = saved - record.seconds, time.process_time() - record.cpu_seconds
    window: list[dict[str, Tensor]] = []
    # Every step seeds torch's generator by its number.
    with torch.random.fork_rng(devices=[stepper.device] if stepper.device.type == "cuda" else []):
        for step in range(record.steps, stepper.total):
            window.append(stepper.take(step))
            record.steps = step + 1
            # Checkpoints fall on reported steps only, so that an interrupted run reports the same rows.
            if record.steps % runtime.log_steps and record.steps < stepper.total:
                continue
            now = time.perf_counter()
            losses = _finite(stepper, window, record.steps)
            if stepper.micro_batch < whole:
                record.micro_batch = stepper.micro_batch
            record.losses.extend(losses["loss"])
            record.rows.append(_row(stepper, record, losses, max(now - reported, 1e-9)))
            record.seconds, record.cpu_seconds = now - began, time.process_time() - cpu_began
            if now - saved > runtime.checkpoint_seconds and record.steps < stepper.total and distributed.is_main():
                save_checkpoint(checkpoint, _state(stepper, record))
                saved = now
            report(record.rows[-1])
            window, reported = [], now


def _row(stepper: Stepper, record: TrainingRecord, losses: dict[str, list[float]], seconds: float) -> Row:
    """Returns what is reported of the last steps, which took so many seconds."""
    row: Row = {"phase": stepper.phase.name, "step": float(record.steps)}
    row |= {"epoch": record.steps / stepper.steps_per_epoch}
    row |= {name: float(np.mean(series)) for name, series in losses.items()}
    row |= {"lr": learning_rate(stepper.settings, record.steps - 1, stepper.total)}
    row |= {"images_per_second": len(losses["loss"]) * stepper.batch_size / seconds}
    row |= {"total_steps": float(stepper.total)}
    return row | ({"micro_batch": float(record.micro_batch)} if record.micro_batch else {})


def _finite(stepper: Stepper, window: list[dict[str, Tensor]], last: int) -> dict[str, list[float]]:
    """Returns the losses of the steps up to `last`, by name, means over the processes.

    Raises:
        DivergenceError: one of them is not finite, or a weight after the last step; in all processes alike.
    """
    phase, first = stepper.phase, last - len(window) + 1
    values, bad = {}, []
    # The adversary's terms may begin within a window.
    for name in dict.fromkeys(name for losses in window for name in losses):
        steps = [step for step, losses in enumerate(window, first) if name in losses]
        series = distributed.mean(torch.stack([losses[name] for losses in window if name in losses])).tolist()
        bad += [(step, name, value) for step, value in zip(steps, series, strict=True) if not math.isfinite(value)]
        values[name] = series
    if bad:
        step, name, value = min(bad, key=lambda item: item[0])
        raise DivergenceError(f"{phase.name}: {name} {value} at step {step}; lower {phase.name}.lr")
    # A last update may have spoilt the weights after its loss was taken; earlier ones show in the next loss.
    networks = [stepper.module] if stepper.adversary is None else [stepper.module, stepper.adversary.network]
    weights = [weight for network in networks for weight in network.parameters()]
    largest = torch.nn.utils.get_total_norm(weights, math.inf).item()
    if not math.isfinite(largest):
        raise DivergenceError(f"{phase.name}: weights {largest} after step {last}; lower {phase.name}.lr")
    return values


def _state(stepper: Stepper, record: TrainingRecord) -> dict[str, Any]:
    """Returns what a checkpoint keeps."""
    networks = {
        "module": stepper.module.state_dict(),
        "optimiser": stepper.optimiser.state_dict(),
        "average": stepper.average.average if stepper.average is not None else {},
        "adversary": stepper.adversary.state() if stepper.adversary is not None else {},
    }
    return networks | {"step" if name == "steps" else name: value for name, value in vars(record).items()}


def _resume(checkpoint: Path, stepper: Stepper) -> TrainingRecord:
    """Puts everything where the checkpoint left it; nothing where there is none."""
    saved = load_checkpoint(checkpoint)
    if saved is None:
        return TrainingRecord()
    try:
        stepper.module.load_state_dict(saved.pop("module"))
        stepper.optimiser.load_state_dict(saved.pop("optimiser"))
        average, adversary = saved.pop("average"), saved.pop("adversary")
        if stepper.average is not None:
            stepper.average.load(average)
        if stepper.adversary is not None:
            stepper.adversary.load_state(adversary)
        record = TrainingRecord(saved.pop("step"), **saved)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if out_of_memory.out_of_memory(error):
            raise
        reason = brief(error, 160)
        raise UserError(f"{checkpoint}: does not fit this config ({reason}); rename it to start over") from None
    # What did not fit before will not now.
    stepper.micro_batch = min(stepper.micro_batch, record.micro_batch or stepper.micro_batch)
    return record

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
from torch import Tensor, nn

from drorae.config import PhaseConfig, Runtime
from drorae.data.features import Features
from drorae.errors import UserError, brief
from drorae.losses.adversarial import Adversary
from drorae.losses.objective import Objective
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import distributed, out_of_memory
from drorae.training.checkpoint import load_checkpoint, save_checkpoint
from drorae.training.phases import Phase, freeze_all_but
from drorae.training.schedule import learning_rate
from drorae.training.step import Stepper

Row = dict[str, float | str]
Report = Callable[[Row], None]


class Diverged(Exception):
    """A loss or a weight stopped being a finite number; the message says at which step.

    The last checkpoint is from before."""


@dataclass
class Trained:
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
    settings: PhaseConfig,
    features: Features,
    objective: Objective,
    adversary: Adversary | None = None,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    runtime: Runtime,
    report: Report,
) -> Trained:
    """Trains the phase's module in place, from the checkpoint if there is one.

    An interrupted run that is started again ends with the same weights, to the bit on one CPU, as one that was
    not interrupted: model, optimiser, average, discriminator and position are saved together, and everything random
    in a step is seeded by its number. On resuming, the rows already reported are reported again first. Incomplete
    last batches are left out.

    Where torch.distributed is set up, each process takes an equal part of every batch, all report the same losses,
    those of the whole batch, and the main one saves.

    Raises:
        Diverged: a loss or a weight became infinite or not a number.
        UserError: the checkpoint does not fit, there are no images for one batch, the batch cannot be shared out, or
            memory does not hold one image.
    """
    module = freeze_all_but(tokenizer, phase)
    trained = Trained()
    if settings.epochs == 0 or not any(parameter.requires_grad for parameter in module.parameters()):
        return trained
    stepper = Stepper(
        tokenizer, phase, settings, features, objective, adversary, seed=seed, device=device, runtime=runtime
    )
    as_asked, total = stepper.micro_batch, stepper.total
    trained = _resume(checkpoint, module, stepper, adversary) or trained
    for earlier in trained.rows:
        report(earlier)
    seconds, cpu_seconds = trained.seconds, trained.cpu_seconds
    started, cpu_started = time.perf_counter(), time.process_time()
    last_saved = started
    window: list[dict[str, Tensor]] = []
    window_started = started
    # Every step seeds torch's generator by its number.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(trained.steps, total):
            window.append(stepper.take(step))
            trained.steps = step + 1
            now = time.perf_counter()
            # Checkpoints fall on reported steps only, so that an interrupted run reports the same rows.
            if trained.steps % runtime.log_steps == 0 or trained.steps == total:
                values = _finite(phase, window, trained.steps, module, adversary)
                trained.losses.extend(values["loss"])
                row: Row = {"phase": phase.name, "step": float(trained.steps)}
                row |= {"epoch": trained.steps / stepper.steps_per_epoch}
                row |= {name: float(np.mean(series)) for name, series in values.items()}
                images_per_second = len(window) * stepper.batch_size / max(now - window_started, 1e-9)
                row |= {"lr": learning_rate(settings, step, total), "images_per_second": images_per_second}
                row |= {"total_steps": float(total)}
                if stepper.micro_batch < as_asked:
                    trained.micro_batch = stepper.micro_batch
                    row |= {"micro_batch": float(stepper.micro_batch)}
                trained.rows.append(row)
                trained.seconds = seconds + now - started
                trained.cpu_seconds = cpu_seconds + time.process_time() - cpu_started
                due = now - last_saved > runtime.checkpoint_seconds and trained.steps < total
                if due and distributed.is_main():
                    save_checkpoint(checkpoint, _state(module, stepper, adversary, trained))
                    last_saved = now
                report(row)
                window, window_started = [], now
    if stepper.average is not None:
        stepper.average.copy_to(module)
    tokenizer.requires_grad_(False).eval()
    return trained


def _finite(
    phase: Phase, window: list[dict[str, Tensor]], last: int, module: nn.Module, adversary: Adversary | None
) -> dict[str, list[float]]:
    """The losses of the steps up to `last`, by name, means over the processes.

    Raises:
        Diverged: one of them is not finite, or a weight after the last step; in all processes alike.
    """
    remedy = f"lower {phase.name}.lr"
    first = last - len(window) + 1
    values, bad = {}, []
    # The adversary's terms may begin within a window.
    for name in dict.fromkeys(name for seen in window for name in seen):
        steps = [step for step, seen in enumerate(window, first) if name in seen]
        series = distributed.mean(torch.stack([seen[name] for seen in window if name in seen])).tolist()
        bad += [(step, name, value) for step, value in zip(steps, series, strict=True) if not math.isfinite(value)]
        values[name] = series
    if bad:
        step, name, value = min(bad, key=lambda item: item[0])
        raise Diverged(f"{phase.name}: {name} {value} at step {step}; {remedy}")
    # A last update may have spoilt the weights after its loss was taken; earlier ones show in the next loss.
    weights = [*module.parameters(), *(adversary.network.parameters() if adversary is not None else ())]
    largest = torch.nn.utils.get_total_norm(weights, math.inf)
    if not math.isfinite(largest.item()):
        raise Diverged(f"{phase.name}: weights {largest.item()} after step {last}; {remedy}")
    return values


def _state(module: nn.Module, stepper: Stepper, adversary: Adversary | None, trained: Trained) -> dict[str, Any]:
    """What a checkpoint keeps."""
    return {
        "module": module.state_dict(),
        "optimiser": stepper.optimiser.state_dict(),
        "average": stepper.average.average if stepper.average is not None else {},
        "adversary": adversary.state() if adversary is not None else {},
        "step": trained.steps,
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu_seconds,
        "losses": trained.losses,
        "rows": trained.rows,
        "micro_batch": trained.micro_batch,
    }


def _resume(checkpoint: Path, module: nn.Module, stepper: Stepper, adversary: Adversary | None) -> Trained | None:
    """Puts everything where the checkpoint left it; None where there is none."""
    saved = load_checkpoint(checkpoint)
    if saved is None:
        return None
    try:
        module.load_state_dict(saved["module"])
        stepper.optimiser.load_state_dict(saved["optimiser"])
        if stepper.average is not None:
            stepper.average.load(saved["average"])
        if adversary is not None:
            adversary.load_state(saved["adversary"])
        trained = Trained(saved["step"], saved["seconds"], saved["cpu_seconds"], saved["losses"], saved["rows"])
        trained.micro_batch = saved.get("micro_batch", 0)
    except (KeyError, RuntimeError, ValueError) as error:
        if out_of_memory.out_of_memory(error):
            raise
        reason = brief(error, 160)
        raise UserError(f"{checkpoint}: does not fit this config ({reason}); delete it to start over") from None
    # What did not fit before will not now.
    stepper.micro_batch = min(stepper.micro_batch, trained.micro_batch or stepper.micro_batch)
    return trained

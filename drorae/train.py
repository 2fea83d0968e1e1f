"""One training step and the loop around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drorae.checkpoint import WeightAverage, load_checkpoint, save_checkpoint
from drorae.config import PhaseConfig, Runtime
from drorae.errors import UserError, one_line
from drorae.features import Features
from drorae.losses.objective import Objective
from drorae.phases import Phase, freeze_all_but
from drorae.tokenizer import Tokenizer

Row = dict[str, float | str]
Report = Callable[[Row], None]


class Diverged(Exception):
    """The loss stopped being a finite number; the message says where."""


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


def learning_rate(settings: PhaseConfig, step: int, total: int) -> float:
    """Linear warm-up from 0 over `warmup_steps`, then a cosine from `lr` to `final_lr` at the last step."""
    warmup = min(settings.warmup_steps, total // 2)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(total - 1 - warmup, 1)
    return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * share)) / 2


def epoch_order(seed: int, phase: int, epoch: int, count: int) -> np.ndarray:
    """The order of items in an epoch: a function of these four numbers alone, so that resuming needs no state."""
    return np.random.default_rng([seed, phase, epoch]).permutation(count)


def train_phase(
    tokenizer: Tokenizer,
    phase: Phase,
    settings: PhaseConfig,
    features: Features,
    objective: Objective,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    runtime: Runtime,
    report: Report,
) -> Trained:
    """Trains the phase's module in place, from the checkpoint if there is one.

    An interrupted run that is started again ends with the same weights, to the bit on one CPU, as one that was
    not interrupted: model, optimiser, average, generator and position are saved together. On resuming, the rows
    already reported are reported again first. Incomplete last batches are left out.

    Raises:
        Diverged: the loss became infinite or not a number.
        UserError: the checkpoint does not fit, or there are no images for one batch.
    """
    module = freeze_all_but(tokenizer, phase)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    trained = Trained()
    if not parameters or settings.epochs == 0:
        return trained
    batch_size = min(settings.batch_size, len(features))
    steps_per_epoch = len(features) // batch_size if batch_size else 0
    if steps_per_epoch == 0:
        raise UserError("images: no training images; check images.path and images.train_images")
    total = settings.epochs * steps_per_epoch
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, foreach=True
    )
    average = WeightAverage(module, settings.ema_decay) if settings.ema_decay else None
    noise = torch.Generator().manual_seed(seed * 1000 + phase.number)
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        try:
            module.load_state_dict(saved["module"])
            optimiser.load_state_dict(saved["optimiser"])
            if average is not None:
                average.load(saved["average"])
            noise.set_state(saved["noise"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = one_line(error)[:160]
            raise UserError(f"{checkpoint}: does not fit this config ({reason}); delete it to start over") from None
        trained = Trained(saved["step"], saved["seconds"], saved["cpu_seconds"], saved["losses"], saved["rows"])
        for earlier in trained.rows:
            report(earlier)
    seconds, cpu_seconds = trained.seconds, trained.cpu_seconds
    started, cpu_started = time.perf_counter(), time.process_time()
    last_saved = started
    window: list[dict[str, Tensor]] = []
    window_started = started
    # The fusion reads n layers; decoders of z_base only the last.
    depth = tokenizer.fusion.num_layers if phase.latent == "fused" else 1
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    order, ordered = np.empty(0, np.int64), -1
    for step in range(trained.steps, total):
        epoch, position = divmod(step, steps_per_epoch)
        if epoch != ordered:
            # Once an epoch: a permutation of a million images takes as long as a step.
            order, ordered = epoch_order(seed, phase.number, epoch, len(features)), epoch
        items = order[position * batch_size : (position + 1) * batch_size]
        batch = features.batch(items, epoch, depth)
        pixels, layers = batch.pixels.to(device), batch.layers.to(device).float()
        targets = None if batch.targets is None else batch.targets.to(device)
        rate = learning_rate(settings, step, total)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with autocast:
            latent = tokenizer.fuse(layers).latent if phase.latent == "fused" else tokenizer.base(layers)
            if settings.latent_noise:
                sigma = torch.rand(len(items), 1, 1, generator=noise) * settings.latent_noise
                latent = latent + (sigma * torch.randn(latent.shape, generator=noise)).to(device)
            painted = tokenizer.decode(latent)
        losses = objective(painted, pixels, targets)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimiser.step()
        if average is not None:
            average.update(module)
        window.append({name: value.detach() for name, value in losses.items()})
        trained.steps = step + 1
        now = time.perf_counter()
        # Checkpoints fall on reported steps only, so that an interrupted run reports the same rows.
        if trained.steps % runtime.log_steps == 0 or trained.steps == total:
            values = {name: torch.stack([row[name] for row in window]).tolist() for name in window[0]}
            trained.losses.extend(values["loss"])
            if not math.isfinite(sum(values["loss"])):
                raise Diverged(
                    f"{phase.name}: loss {values['loss'][-1]} at step {trained.steps}; lower {phase.name}.lr"
                )
            row: Row = {"phase": phase.name, "step": float(trained.steps), "epoch": trained.steps / steps_per_epoch}
            row |= {name: float(np.mean(series)) for name, series in values.items()}
            row |= {"lr": rate, "images_per_second": len(window) * batch_size / max(now - window_started, 1e-9)}
            row |= {"total_steps": float(total)}
            trained.rows.append(row)
            trained.seconds = seconds + now - started
            trained.cpu_seconds = cpu_seconds + time.process_time() - cpu_started
            if now - last_saved > runtime.checkpoint_seconds and trained.steps < total:
                save_checkpoint(
                    checkpoint,
                    {
                        "module": module.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "average": average.average if average is not None else {},
                        "noise": noise.get_state(),
                        "step": trained.steps,
                        "seconds": trained.seconds,
                        "cpu_seconds": trained.cpu_seconds,
                        "losses": trained.losses,
                        "rows": trained.rows,
                    },
                )
                last_saved = now
            report(row)
            window, window_started = [], now
    if average is not None:
        average.copy_to(module)
    tokenizer.requires_grad_(False).eval()
    return trained

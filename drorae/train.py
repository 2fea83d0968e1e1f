"""One training step and the loop around it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from drorae import distributed
from drorae.checkpoint import WeightAverage, load_checkpoint, save_checkpoint
from drorae.config import PhaseConfig, Runtime
from drorae.errors import UserError, one_line
from drorae.features import Features, as_images
from drorae.losses.adversarial import Adversary
from drorae.losses.objective import Objective
from drorae.phases import Phase, freeze_all_but
from drorae.schedule import epoch_order, learning_rate, step_seed
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


class Painter(nn.Module):
    """A phase's forward pass, from layers to images, as one module, because that is what several processes wrap."""

    def __init__(self, tokenizer: Tokenizer, phase: Phase) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.fused = phase.latent == "fused"

    def forward(self, layers: Tensor, noise: Tensor | None, head_offset: Tensor | None) -> Tensor:
        """layers [B, n, N, C], noise on the latent [B, N, C] -> images [B, 3, S, S]."""
        latent = self.tokenizer.latent(layers, self.fused)
        return self.tokenizer.decode(latent if noise is None else latent + noise, head_offset)


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
        Diverged: the loss became infinite or not a number.
        UserError: the checkpoint does not fit, there are no images for one batch, or the batch cannot be shared out.
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
    processes = distributed.world_size()
    if batch_size % processes:
        raise UserError(
            f"{phase.name}.batch_size: {batch_size} images cannot be shared by {processes} processes; "
            f"use a multiple of {processes}"
        )
    share = batch_size // processes
    piece = min(runtime.micro_batch or share, share)
    total = settings.epochs * steps_per_epoch
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, foreach=True
    )
    average = WeightAverage(module, settings.ema_decay) if settings.ema_decay else None
    noises = torch.Generator(device)
    painter = distributed.shared(Painter(tokenizer, phase), device)
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        try:
            module.load_state_dict(saved["module"])
            optimiser.load_state_dict(saved["optimiser"])
            if average is not None:
                average.load(saved["average"])
            if adversary is not None:
                adversary.load_state(saved["adversary"])
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
    # Every step seeds torch's generator by its number.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(trained.steps, total):
            epoch, position = divmod(step, steps_per_epoch)
            if epoch != ordered:
                # Once an epoch: a permutation of a million images takes as long as a step.
                order, ordered = epoch_order(seed, phase.number, epoch, len(features)), epoch
            items = order[position * batch_size : (position + 1) * batch_size]
            mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
            rate = learning_rate(settings, step, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(step_seed(seed, phase.number, step, distributed.rank()))
            noise = None
            if settings.latent_noise:
                # Drawn for the whole batch, so that sharing it out changes nothing.
                noises.manual_seed(step_seed(seed, phase.number, step))
                sigma = torch.rand(batch_size, 1, 1, generator=noises, device=device) * settings.latent_noise
                shape = (batch_size, tokenizer.encoder.grid**2, tokenizer.encoder.width)
                noise = (sigma * torch.randn(shape, generator=noises, device=device))[mine]
            speaks = adversary is not None and adversary.speaks(step)
            offset = torch.zeros_like(tokenizer.decoder.head.weight, requires_grad=True) if speaks else None
            optimiser.zero_grad(set_to_none=True)
            pieces: list[dict[str, Tensor]] = []
            images: list[tuple[Tensor, Tensor]] = []
            for start in range(0, share, piece):
                chosen = items[mine][start : start + piece]
                weight = len(chosen) / share
                batch = features.batch(chosen, epoch, depth)
                pixels, layers = batch.pixels.to(device), batch.layers.to(device).float()
                targets = None if batch.targets is None else batch.targets.to(device)
                # Gradients are exchanged once a step, with the last piece.
                last = start + piece >= share
                with contextlib.nullcontext() if processes == 1 or last else painter.no_sync():
                    with autocast:
                        painted = painter(layers, None if noise is None else noise[start : start + piece], offset)
                    losses = objective(painted, pixels, targets)
                    whole = losses["loss"]
                    if adversary is not None and offset is not None:
                        with autocast:
                            losses |= adversary.term(painted, whole, offset)
                        whole = whole + losses.pop("gan_term")
                    (whole * weight).backward()
                pieces.append({name: value.detach() * weight for name, value in losses.items()})
                if adversary is not None:
                    images.append((painted.detach().float(), as_images(pixels)))
            if settings.clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimiser.step()
            if average is not None:
                average.update(module)
            seen = {name: torch.stack([values[name] for values in pieces]).sum() for name in pieces[0]}
            if adversary is not None:
                with autocast:
                    seen |= adversary.learn(step, total, [pair[0] for pair in images], [pair[1] for pair in images])
            window.append(seen)
            trained.steps = step + 1
            now = time.perf_counter()
            # Checkpoints fall on reported steps only, so that an interrupted run reports the same rows.
            if trained.steps % runtime.log_steps == 0 or trained.steps == total:
                # The adversary's terms may begin within a window.
                names = dict.fromkeys(name for row in window for name in row)
                values = {
                    name: distributed.mean(torch.stack([row[name] for row in window if name in row])).tolist()
                    for name in names
                }
                trained.losses.extend(values["loss"])
                for name, series in values.items():
                    if not math.isfinite(sum(series)):
                        where = f"{phase.name}: {name} {series[-1]} at step {trained.steps}"
                        raise Diverged(f"{where}; lower {phase.name}.lr")
                row: Row = {"phase": phase.name, "step": float(trained.steps), "epoch": trained.steps / steps_per_epoch}
                row |= {name: float(np.mean(series)) for name, series in values.items()}
                row |= {"lr": rate, "images_per_second": len(window) * batch_size / max(now - window_started, 1e-9)}
                row |= {"total_steps": float(total)}
                trained.rows.append(row)
                trained.seconds = seconds + now - started
                trained.cpu_seconds = cpu_seconds + time.process_time() - cpu_started
                due = now - last_saved > runtime.checkpoint_seconds and trained.steps < total
                if due and distributed.is_main():
                    save_checkpoint(
                        checkpoint,
                        {
                            "module": module.state_dict(),
                            "optimiser": optimiser.state_dict(),
                            "average": average.average if average is not None else {},
                            "adversary": adversary.state() if adversary is not None else {},
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

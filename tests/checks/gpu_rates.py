"""Rates at the paper's size: matrix products, fusion, the phases on JPEGs, and steps of generators.

    python tests/checks/gpu_rates.py [--device cpu --small] [--workers 12]

Weights are untrained and nothing is downloaded. The fusion's rate is that of the products it cannot do without (both of
every expert forward, three back, the router's) by the time of all of it, forward and back. The phases are the trials'
own steps on JPEGs of 500 x 375 px, which processes decode and cut ahead of the step.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from preset_steps import MICRO_BATCH, measure, prepared
from rich.console import Console
from rich.table import Table
from torch import nn

from drorae.config import GENERATORS, PRESETS, TRAININGS, FusionConfig, GeneratorRun, GeneratorTraining, Runtime
from drorae.data.images import load_images
from drorae.errors import Notice
from drorae.generation.pack import take_step as take_generators_step
from drorae.generation.training import GeneratorStepper, TrainingLatents
from drorae.generation.transformer import DiTDH
from drorae.machine.generator import training_flops
from drorae.models.encoder import load_encoder
from drorae.models.fusion.registry import LayerFusion
from drorae.runtime.determinism import set_deterministic

PHOTOGRAPHS = 384
LAYERS, WIDTH, GRID = 12, 768, 16
"""Of DINOv2-B at 224 px."""
CLASSES = 1000


def write_jpegs(folder: Path, count: int) -> None:
    """JPEGs of ImageNet's usual size and weight, of colours that change slowly under a grain."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        colours = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375))
        grain = generator.normal(0, 8, (375, 500, 1))
        pixels = (np.asarray(colours) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds of one call, of so many after three that are not timed."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        work()
    finish()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    finish()
    return (time.perf_counter() - started) / rounds


def matrix_rate(device: torch.device, small: bool) -> float:
    """FLOP/s of a large matrix product in bfloat16."""
    side = 256 if small else 8192
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, 20)


def fusion_rates(device: torch.device, small: bool, whole: float, console: Console) -> None:
    """Prints the fusion's rate by hidden width, and its share of the matrix rate `whole`."""
    layers, width, images, tokens = (4, 64, 2, 16) if small else (LAYERS, WIDTH, MICRO_BATCH, GRID**2)
    table = Table("h", "ms", "its products alone, ms", "TFLOP/s", "share", "that of the products")
    table.title = f"fusion, forward and back, bf16, {images} images; matrix products {whole / 1e12:.0f} TFLOP/s"
    norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    stored = 3 * torch.randn(images, layers, tokens, width, device=device).bfloat16()
    wanted = torch.randn(images, tokens, width, device=device)
    for hidden in (8,) if small else (8, 64, 512, 3072):
        fusion = LayerFusion(FusionConfig(expert_hidden_dim=hidden), layers, norm).to(device)

        def step(fusion: LayerFusion = fusion) -> None:
            fusion.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                (fusion.latent(stored) * wanted).mean().backward()

        read = torch.randn(layers, images * tokens, width, device=device).bfloat16()
        first = torch.randn(layers, width, hidden, device=device).bfloat16()
        units = torch.randn(layers, images * tokens, hidden, device=device).bfloat16()
        routes = torch.randn(layers, width, layers, device=device).bfloat16()
        logits = torch.randn(layers, images * tokens, layers, device=device).bfloat16()

        pairs = (
            (read, first), (units, first.mT), (read, first), (units.mT, read), (read.mT, units), (read, routes),
            (read.mT, logits),
        )  # fmt: skip

        def products(pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...] = pairs) -> None:
            for one, other in pairs:
                torch.bmm(one, other)

        flops = 2.0 * images * tokens * layers * width * (5 * hidden + 2 * layers)
        taken, alone = seconds_of(step, device, 10), seconds_of(products, device, 10)
        rate = flops / taken
        table.add_row(
            str(hidden), f"{1000 * taken:.2f}", f"{1000 * alone:.2f}", f"{rate / 1e12:.1f}", f"{rate / whole:.0%}",
            f"{flops / alone / whole:.0%}",
        )  # fmt: skip
    console.print(table)


def phase_rates(device: torch.device, small: bool, workers: int, console: Console) -> bool:
    """Prints images/s of the paper's phases on JPEGs, and how long they wait for crops; whether losses are numbers."""
    config = prepared(PRESETS["paper"], small)
    runtime = Runtime(device=device.type, features="online", micro_batch=MICRO_BATCH, loader_workers=workers)
    table = Table("phase", "trains", "images/s", "waiting", "peak GB")
    table.title = f"the paper's phases on JPEGs, {workers} processes cut them"
    fine = True
    with tempfile.TemporaryDirectory() as name:
        write_jpegs(Path(name), 32 if small else PHOTOGRAPHS)
        images = load_images(replace(config.images, path=name, val_fraction=0.1)).train
        encoder = load_encoder(config.encoder, "").to(device)
        for phase in config.phases:
            found = measure(config, encoder, phase, runtime, device, images)
            fine &= found.fine
            table.add_row(
                found.phase, found.trains, f"{found.images_per_second:.1f}", f"{found.waiting:.1%}",
                f"{found.peak_bytes / 1e9:.1f}",
            )  # fmt: skip
    console.print(table)
    return fine


def generator_rate(device: torch.device, small: bool, whole: float, console: Console) -> None:
    """Prints what steps of DiT^DH-XL take on latents of the paper's tokenizer, by precision and images a step."""
    size, grid, width = ("tiny", 2, 64) if small else ("dit_dh_xl", GRID, WIDTH)
    config = GENERATORS[size]
    table = Table("precision", "images a step", "at once", "ms", "images/s", "TFLOP/s", "share", "peak GB", "loss")
    labels = np.arange(CLASSES)
    latents = TrainingLatents(
        CLASSES, lambda items: torch.randn(len(items), width, grid, grid, device=device), lambda latent: latent, labels
    )
    with torch.device(device):
        module = DiTDH(config, width, grid, CLASSES)
    table.title = f"{size}: {sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} M parameters"
    for precision, batch, at_once in (("bf16", 256, MICRO_BATCH), ("fp32", MICRO_BATCH, 16)):
        training = replace(TRAININGS["drorae"], precision=precision, batch_size=4 if small else batch)
        runtime = Runtime(device=device.type, micro_batch=2 if small else at_once)
        stepper = GeneratorStepper(module, GeneratorRun(config, training), latents, device, runtime)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with contextlib.closing(stepper):
            stepper.take(0)
            started = time.perf_counter()
            losses = [float(stepper.take(step)["loss"]) for step in (1, 2)]
            taken = (time.perf_counter() - started) / 2
        rate = stepper.batch_size * training_flops(config, width, grid) / taken
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        table.add_row(
            precision, str(stepper.batch_size), str(stepper.micro_batch), f"{1000 * taken:.0f}",
            f"{stepper.batch_size / taken:.1f}", f"{rate / 1e12:.1f}", f"{rate / whole:.0%}", f"{peak / 1e9:.1f}",
            f"{losses[-1]:.3f}",
        )  # fmt: skip
        del stepper
    console.print(table)


def generator_pack_rate(device: torch.device, small: bool, console: Console) -> None:
    """Prints what steps of a sweep's small generators take, in turn and as a pack."""
    size, grid, width = ("tiny", 2, 64) if small else ("small", GRID, 384)
    run = GeneratorRun(GENERATORS[size], GeneratorTraining(batch_size=4 if small else 64, precision="bf16"))
    table = Table("generators", "images a step", "in turn, ms", "a pack, ms", "times as fast", title=f"packs of {size}")
    latents = TrainingLatents(
        CLASSES, lambda items: torch.randn(len(items), width, grid, grid, device=device), lambda latent: latent,
        np.arange(CLASSES),
    )  # fmt: skip
    for count in (2, 6):
        with torch.device(device):
            modules = [DiTDH(run.model, width, grid, CLASSES) for _ in range(count)]
        steppers = [GeneratorStepper(module, run, latents, device, Runtime(device=device.type)) for module in modules]
        taken = [
            seconds_of(work, device, 10)
            for work in (partial(_in_turn, steppers), partial(take_generators_step, steppers, 0))
        ]
        ratio = taken[0] / taken[1]
        table.add_row(str(count), str(run.training.batch_size), *(f"{1000 * s:.1f}" for s in taken), f"{ratio:.2f}")
    console.print(table)


def _in_turn(steppers: Sequence[GeneratorStepper]) -> None:
    for stepper in steppers:
        stepper.take(0)


def main() -> int:
    """Prints all of it; 1 where a loss is no number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 4), help="cut crops")
    arguments = parser.parse_args()
    console = Console(width=160)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        console.print("no CUDA device here: nothing was checked and nothing is claimed")
        return 0
    device = torch.device(arguments.device)
    set_deterministic()
    warnings.simplefilter("ignore", Notice)
    whole = matrix_rate(device, arguments.small)
    fusion_rates(device, arguments.small, whole, console)
    generator_rate(device, arguments.small, whole, console)
    generator_pack_rate(device, arguments.small, console)
    fine = phase_rates(device, arguments.small, arguments.workers, console)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())

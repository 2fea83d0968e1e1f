"""Training steps of every preset, phase by phase, at full size with untrained weights: images/s and peak memory.

    python tests/checks/preset_steps.py [--device cpu --small] [--micro-batch 64] [--seconds 240] [PRESET ...]

Networks, batches, losses and optimisers are the preset's own, images are noise, and the discriminator learns and is
heard from the first step on, so that a step is the most demanding one of its phase. Nothing is downloaded. `--small`
puts the smallest networks in the place of the preset's, to run the check itself on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table

from drorae.config import PRESETS, Phase, Runtime, TrialConfig
from drorae.data.crops import ImageSet
from drorae.data.features import DTYPES, OnlineFeatures
from drorae.errors import Notice, UserError, brief
from drorae.losses.lpips import STAGES, Lpips
from drorae.losses.objective import Objective
from drorae.losses.perceptual import PerceptualNetwork
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.tokenizer import build_tokenizer
from drorae.runtime import out_of_memory
from drorae.runtime.determinism import set_deterministic
from drorae.training.adversary import make_adversary
from drorae.training.step import Stepper

STEPS = 2
"""Steps that are timed, after one that is not."""
SECONDS = 200.0
"""No phase is begun after so many, in `make gpu-check`."""
MICRO_BATCH = 64
"""Images at once where nobody asks for another number: memory then tells of the networks, not of the batch."""


class Noise:
    """So many images of noise, each crop the same few thousand pixels from another place."""

    fingerprint = "noise"

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.pool = np.random.default_rng(0).integers(0, 256, (17, size, size, 3), np.uint8)

    def __len__(self) -> int:
        return self.count

    def crops(self, indices: Sequence[int], view: int = 0) -> np.ndarray:
        return self.pool[[(index + view) % len(self.pool) for index in indices]]


@dataclass(frozen=True)
class Measured:
    """What a phase's steps took; without a `reason`, all of it is there."""

    preset: str
    phase: str
    trains: str
    batch: int
    reason: str = ""
    micro_batch: int = 0
    images_per_second: float = 0.0
    peak_bytes: int = 0
    """On CUDA."""
    waiting: float = 0.0
    """Share of the steps' time in which nothing was done but wait for crops."""
    losses: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether every loss is a number; what was left out for a reason is no fault."""
        return all(map(math.isfinite, self.losses.values()))


def prepared(config: TrialConfig, small: bool) -> TrialConfig:
    """A preset with untrained weights and one batch an epoch, its discriminator at work from the first step on."""
    most = 4 if small else max(phase.settings.batch_size for phase in config.phases)
    phases = {
        phase.name: replace(
            phase.settings,
            epochs=phase.settings.epochs and STEPS + 1,
            batch_size=min(phase.settings.batch_size, most),
            disc_start_steps=0,
            gan_start_steps=0,
        )
        for phase in config.phases
    }
    config = replace(
        config,
        encoder=replace(config.encoder, weights="random"),
        discriminator=replace(config.discriminator, weights="random"),
        **phases,  # type: ignore[arg-type]
    )
    if not small:
        return config
    return replace(
        config,
        images=replace(config.images, size=32, resize=0),
        encoder=replace(config.encoder, name="vit_tiny_patch16_224", input_size=32),
        fusion=replace(config.fusion, expert_hidden_dim=8, layers=config.fusion.layers and (3, 8)),
        decoder=replace(config.decoder, width=32, depth=1, heads=2, mlp_dim=64),
        discriminator=replace(config.discriminator, name="vit_tiny_patch16_224", input_size=32),
    )


def untrained_objective(config: TrialConfig) -> Objective:
    """The loss on networks without weights of their own, for want of a download."""
    settings, network = config.objective, None
    if settings.perceptual == "effnet":
        network = PerceptualNetwork(timm.create_model("tf_efficientnet_lite0"), settings.perceptual_size)
    elif settings.perceptual == "lpips_vgg":
        layers = torchvision.models.vgg16(weights=None).features
        widths = [layers[stop - 2].out_channels for stop in STAGES["vgg"]]
        network = Lpips("vgg", layers, [torch.full((width,), 1 / width) for width in widths])
    return Objective(settings, network)


@contextlib.contextmanager
def timed_calls(owner: object, name: str) -> Iterator[list[float]]:
    """Yields the seconds of every call of an object's method meanwhile."""
    method, seconds = getattr(owner, name), list[float]()

    def timed(*given: object) -> object:
        started = time.perf_counter()
        try:
            return method(*given)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        delattr(owner, name)


def measure(
    config: TrialConfig,
    encoder: Encoder,
    phase: Phase,
    runtime: Runtime,
    device: torch.device,
    images: ImageSet | None = None,
) -> Measured:
    """Takes the steps of one phase, on noise that is at hand where there are no `images`.

    Raises:
        UserError: memory does not hold one image.
        torch.OutOfMemoryError, RuntimeError, MemoryError: it does not hold the networks.
    """
    cuda = device.type == "cuda"
    tokenizer = build_tokenizer(config, encoder).to(device)
    views, size = config.images.views, config.images.size
    images = images or Noise(phase.settings.batch_size, size)
    features = OnlineFeatures(images, encoder, DTYPES[config.encoder.feature_dtype], views, device)
    stepper = Stepper(
        tokenizer, phase, features, untrained_objective(config).to(device),
        make_adversary(config, phase.settings, device, config.seed), seed=config.seed, device=device, runtime=runtime,
    )  # fmt: skip
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.closing(stepper):
        losses = stepper.take(0)
        if cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        # A batch is waited for, and then encoded.
        with timed_calls(stepper._loader, "take") as took, timed_calls(features, "finish") as encoded:
            for step in range(1, STEPS + 1):
                losses = stepper.take(step)
            found = {name: float(value) for name, value in losses.items()}  # waits for the device
        seconds = time.perf_counter() - started
    return Measured(
        "", phase.name, "+".join(phase.trains), stepper.batch_size, "", stepper.micro_batch,
        STEPS * stepper.batch_size / seconds, torch.cuda.max_memory_allocated(device) if cuda else 0,
        (sum(took) - sum(encoded)) / seconds, found,
    )  # fmt: skip


def steps(
    names: Sequence[str], device: torch.device, small: bool, micro_batch: int = MICRO_BATCH, seconds: float = math.inf
) -> Iterator[Measured]:
    """Measures every phase of the presets that trains; those that would begin after so many seconds are left out."""
    runtime = Runtime(device=device.type, features="online", micro_batch=micro_batch)
    began = time.perf_counter()
    for name in names:
        config = prepared(PRESETS[name], small)
        encoder: Encoder | None = None
        for phase in config.phases:
            if not phase.settings.epochs:
                continue
            trains, batch = "+".join(phase.trains), phase.settings.batch_size
            reason = f"not begun within {seconds:.0f} s" if time.perf_counter() - began > seconds else ""
            try:
                if not reason:
                    encoder = encoder or load_encoder(config.encoder, "").to(device)
                    yield replace(measure(config, encoder, phase, runtime, device), preset=name)
            except UserError as error:
                reason = str(error)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory.out_of_memory(error):
                    raise
                reason = f"its networks do not fit memory: {brief(error, 100)}"
            if reason:
                yield Measured(name, phase.name, trains, batch, reason)
            # Memory is to tell of the next phase alone.
            out_of_memory.release()


def check_presets(
    names: Sequence[str], device: torch.device, small: bool, console: Console, micro_batch: int, seconds: float
) -> bool:
    """Prints a row per phase as a table; True where every loss is a number."""
    table = Table("preset", "phase", "trains", "batch", "at once", "images/s", "peak GB", "loss")
    table.title = f"steps of the presets{' (small stand-ins)' if small else ''} on {device}, untrained weights"
    fine, reasons = True, []
    with warnings.catch_warnings():
        # That fewer images at once are taken shows in the table.
        warnings.simplefilter("ignore", Notice)
        for found in steps(names, device, small, micro_batch, seconds):
            fine &= found.fine
            row = ["skipped", "", "", ""]
            if found.reason:
                reasons.append(f"{found.preset} {found.phase} skipped: {found.reason}")
            else:
                peak = f"{found.peak_bytes / 1e9:.1f}" if found.peak_bytes else "-"
                losses = " ".join(f"{name} {value:.3g}" for name, value in found.losses.items())
                row = [str(found.micro_batch), f"{found.images_per_second:.1f}", peak, losses]
            table.add_row(found.preset, found.phase, found.trains, str(found.batch), *row)
    console.print(table)
    for reason in reasons:
        console.print(reason)
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="all where none is named")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--micro-batch", type=int, default=MICRO_BATCH)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no phase after so many")
    arguments = parser.parse_args()
    console = Console(width=160)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        console.print("no CUDA device here: nothing was checked and nothing is claimed")
        return 0
    if unknown := set(arguments.presets) - PRESETS.keys():
        parser.error(f"no preset {', '.join(sorted(unknown))}; expected some of {', '.join(PRESETS)}")
    set_deterministic()
    names, device = arguments.presets or list(PRESETS), torch.device(arguments.device)
    fine = check_presets(names, device, arguments.small, console, arguments.micro_batch, arguments.seconds)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""How a trial's costs grow: a step over capacity, layers and the trials of a pack, an evaluation over images.

    python tests/benchmarks/benchmark_growth.py           # about five minutes on 2 cores

One thread, the quickstart's networks and batches, on few photographs. All sizes of one kind are run in turn. How a
sweep grows over its trials is in results/orchestration.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from alternate import ROUNDS, Comparison, alternate, arguments, record, timed
from matplotlib.figure import Figure

from drorae.config import PRESETS, PhaseConfig, Runtime, TrialConfig, override
from drorae.machine.precision import settled
from drorae.metrics.evaluate import evaluate
from drorae.metrics.samples import FeatureSample
from drorae.training.pack import take_step
from drorae.training.step import Stepper
from drorae.trial.shared import Workshop, open_workshop

CAPACITIES = (4, 16, 64, 256, 1024, 3072)
LAYERS = (1, 2, 4, 8, 12)
PACKS = (1, 2, 4, 8)
IMAGES = (250, 1000, 4000)
BASE = settled(
    replace(
        PRESETS["quickstart"],
        images=replace(PRESETS["quickstart"].images, train_images=64, val_images=64),
        phase1=PhaseConfig(epochs=0),
    )
)


def make_stepper(workshop: Workshop, config: TrialConfig) -> Stepper:
    """Of phase 2 of a trial."""
    return Stepper(
        replace(workshop, config=config).tokenizer(), config.phases[1], workshop.train, workshop.objective, None,
        seed=0, device=workshop.device, runtime=workshop.runtime,
    )  # fmt: skip


def steps(workshop: Workshop, field: str, values: tuple[int, ...]) -> dict[int, Callable[[], object]]:
    """A step of each trial whose field has one of the values."""
    return {value: partial(make_stepper(workshop, override(BASE, field, value)).take, 0) for value in values}


def packs(workshop: Workshop) -> dict[int, Callable[[], object]]:
    """A step of so many trials of h = 40 at once."""
    config = override(BASE, "fusion.expert_hidden_dim", 40)
    every = {count: [make_stepper(workshop, config) for _ in range(count)] for count in PACKS}
    return {count: partial(take_step, steppers, 0) for count, steppers in every.items()}


def evaluations(workshop: Workshop) -> dict[int, Callable[[], object]]:
    """Measuring so many reconstructions, with the originals' features at hand."""
    (extractor,) = workshop.extractors
    found: dict[int, Callable[[], object]] = {}
    for count in IMAGES:
        originals = workshop.val.batch(np.arange(count) % len(workshop.val), 0, 0).pixels
        noisy = originals ^ torch.randint(0, 8, originals.shape, dtype=torch.uint8)
        reference = FeatureSample(extractor.dim)
        reference.update(torch.randn(count, extractor.dim))
        pairs = list(zip(noisy.split(128), originals.split(128), strict=True))
        found[count] = partial(evaluate, pairs, [extractor], {extractor.metric: reference})
    return found


def compare(kind: str, things: Mapping[int, Callable[[], object]], rounds: int) -> Comparison:
    """Runs all sizes of one kind in turn."""
    return alternate(kind, {str(size): timed(work) for size, work in things.items()}, rounds=rounds)


def draw(comparisons: list[Comparison], path: Path) -> None:
    """Seconds over size, in logarithms, with a line of slope 1 through the largest."""
    figure = Figure((11, 3), layout="constrained")
    for axis, one in zip(figure.subplots(1, len(comparisons)), comparisons, strict=True):
        sizes, seconds = np.array([int(name) for name in one.seconds]), [one.median(name) for name in one.seconds]
        axis.loglog(sizes, seconds, "o-")
        axis.loglog(sizes, seconds[-1] * sizes / sizes[-1], ":", color="gray")
        axis.set(xlabel=one.case, ylabel="seconds")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        opened = open_workshop(BASE, Runtime(threads=1, cache_dir=folder))
        kinds = {
            "step over expert hidden dim": steps(opened, "fusion.expert_hidden_dim", CAPACITIES),
            "step over fused layers (h = 40)": steps(opened, "fusion.num_layers", LAYERS),
            "step over trials of a pack (h = 40)": packs(opened),
            "evaluation over images": evaluations(opened),
        }
        found = [compare(kind, things, options.rounds) for kind, things in kinds.items()]
    record(
        "growth",
        found,
        options.out,
        "A step of 32 images. Up to h of about 100 it costs what the frozen decoder and the perceptual network "
        "cost, beyond that the experts' products, in proportion to h and to the layers. A pack saves what does not "
        "depend on the number of images, and the reading of features. An evaluation is the extractor's forward pass, "
        "in proportion to the images.",
    )
    if options.rounds >= ROUNDS:
        draw(found, options.out / "growth.png")

"""What a step of phase 2 is made of: matrix products, convolutions, and what passes over memory between them.

    python tests/benchmarks/benchmark_step.py           # about three minutes

Steps of the quickstart's networks and batches on one thread: a pack of its six sizes, and its smallest and largest
alone; and in batches of 64 one trial of h = 512 alone and six of them in a pack. Each step is run under torch's
profiler, which says how long its operators took themselves; the products are the fusion's and the decoder's, the
convolutions the perceptual network's, both ways. No sharing and no order of work does without the two, so that they
bound what a step can be.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from alternate import Comparison, arguments, record
from torch.profiler import ProfilerActivity, profile

from drorae.config import PRESETS, Runtime, TrialConfig, override
from drorae.machine.precision import settled
from drorae.training.pack import take_step
from drorae.training.step import Stepper
from drorae.trial.shared import open_workshop

SIZES = (4, 7, 12, 40, 120, 360)
"""`make quickstart`'s."""
STEPS = 5
"""In a round, after one that is not counted."""
OPERATORS = {
    "its matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "its convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward"),
}


def stepper(hidden: int, cache: str, batch: int = 32) -> Stepper:
    """Phase 2 of the quickstart with experts of width h, on fewer images and a decoder of one epoch."""
    config: TrialConfig = settled(override(PRESETS["quickstart"], "fusion.expert_hidden_dim", hidden))
    images = replace(config.images, train_images=320, val_images=64)
    config = replace(
        config, images=images, phase1=replace(config.phase1, epochs=1), phase2=replace(config.phase2, batch_size=batch)
    )
    workshop = open_workshop(config, Runtime(threads=1, cache_dir=cache))
    return Stepper(
        workshop.tokenizer(), config.phases[1], workshop.train, workshop.objective, None,
        seed=0, device=workshop.device, runtime=workshop.runtime,
    )  # fmt: skip


def measured(case: str, take: Callable[[int], object], rounds: int) -> Comparison:
    """The seconds of a step, and those of them that its operators took."""
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in OPERATORS}}
    take(0)
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            for step in range(STEPS):
                take(step)
            seconds["step"].append((time.perf_counter() - began) / STEPS)
        own = {event.key: event.self_cpu_time_total * 1e-6 for event in seen.key_averages()}
        for name, operators in OPERATORS.items():
            seconds[name].append(sum(own.get(operator, 0.0) for operator in operators) / STEPS)
    found = Comparison(case, seconds)
    print(case, *(f"{name} {found.median(name):.3g} s ({found.ratio(name):.2f})" for name in seconds), flush=True)
    return found


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steppers = [stepper(hidden, folder) for hidden in SIZES]
        packed = functools.partial(take_step, steppers)
        cases = [measured(f"pack of h = {', '.join(map(str, SIZES))}", packed, options.rounds)]
        for hidden in (SIZES[0], SIZES[-1]):
            alone = stepper(hidden, folder)
            cases.append(measured(f"h = {hidden} alone", alone.take, options.rounds))
        wide = [stepper(512, folder, batch=64) for _ in SIZES]
        cases.append(measured("h = 512 alone, 64 images", wide[0].take, options.rounds))
        cases.append(measured("six of h = 512, 64 images", functools.partial(take_step, wide), options.rounds))
    share = sum(cases[0].ratio(name) for name in OPERATORS)
    record(
        "step",
        cases,
        options.out,
        f"Of a pack's step {share:.0%} are products and convolutions: it could be {1 / share:.2g} times as fast if "
        "everything else were free.",
    )

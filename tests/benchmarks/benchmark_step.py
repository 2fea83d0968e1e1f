"""What a step of phase 2 is made of: matrix products, convolutions, and what passes over memory between them.

    python tests/benchmarks/benchmark_step.py           # about three minutes

Steps of the quickstart's networks and batches on one thread: a pack of its six sizes, and its smallest and largest
alone; and in batches of 64 one trial of h = 512 alone and six of them in a pack. Each step is run under torch's
profiler, which says how long its operators took themselves; the products are the fusion's and the decoder's, the
convolutions the perceptual network's, both ways. No sharing and no order of work does without the two, so that they
bound what a step can be.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from alternate import Comparison, arguments, record
from benchmark_growth import BASE, make_stepper
from torch.profiler import ProfilerActivity, profile

from drorae.config import Runtime, override
from drorae.training.pack import take_step
from drorae.trial.shared import open_workshop

SIZES = (4, 7, 12, 40, 120, 360)
"""`make quickstart`'s."""
STEPS = 5
"""In a round."""
OPERATORS = {
    "its matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "its convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward"),
}


def measured(case: str, step: Callable[[], object], rounds: int) -> Comparison:
    """The seconds of a step, and those of them that its operators took."""
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in OPERATORS}}
    step()
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
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
        workshop = open_workshop(BASE, Runtime(threads=1, cache_dir=folder))
        sizes = [make_stepper(workshop, override(BASE, "fusion.expert_hidden_dim", hidden)) for hidden in SIZES]
        large = override(override(BASE, "fusion.expert_hidden_dim", 512), "phase2.batch_size", 64)
        wide = [make_stepper(workshop, large) for _ in SIZES]
        steps: dict[str, Callable[[], object]] = {
            f"pack of h = {', '.join(map(str, SIZES))}": partial(take_step, sizes, 0),
            f"h = {SIZES[0]} alone": partial(sizes[0].take, 0),
            f"h = {SIZES[-1]} alone": partial(sizes[-1].take, 0),
            "h = 512 alone, 64 images": partial(wide[0].take, 0),
            "six of h = 512, 64 images": partial(take_step, wide, 0),
        }
        cases = [measured(case, step, options.rounds) for case, step in steps.items()]
    share = sum(cases[0].ratio(name) for name in OPERATORS)
    record(
        "step",
        cases,
        options.out,
        f"Of a pack's step {share:.0%} are products and convolutions: it could be {1 / share:.2g} times as fast if "
        "everything else were free.",
    )

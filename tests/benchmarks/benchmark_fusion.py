"""The fusion's part of a training step against the plain loop that its formula says, and against its products alone.

    python tests/benchmarks/benchmark_fusion.py           # about ten minutes on 2 cores

One thread, 1024 tokens of 12 layers (64 images of the quickstart), forward and back. `loop` is Eqs. 1 to 5 of arXiv
2605.10780 in float32 with `nn.Linear` and `nn.LayerNorm`, a layer at a time, from the same stored bfloat16 features.
`products` are the matrix products that no implementation can do without, in the same type: both of every expert
forward, three back (no gradient goes to the frozen layers), the router's forward and back. `passes` are what goes over
memory between them, each as one of torch's own kernels: the layers normalised once, the hidden units normalised and
that taken back, and of wide experts every output centred, measured and added up, and its gradient made. A step is one
of phase 2 of the quickstart, by precision.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from alternate import Comparison, alternate, arguments, record, timed
from torch import Tensor, nn
from torch.nn import functional

from drorae.config import PRESETS, FusionConfig, Runtime, override
from drorae.machine.precision import has_bf16
from drorae.models.fusion.mixture import is_narrow
from drorae.models.fusion.registry import LayerFusion
from drorae.training.step import Stepper
from drorae.trial.shared import open_workshop

TOKENS, LAYERS = 1024, 12
SIZES = ((384, 8), (384, 64), (384, 512), (384, 3072), (768, 8), (768, 512), (768, 3072))
"""Width C of the encoder, hidden width h of an expert."""


class Loop(nn.Module):
    """Eqs. 1 to 5 of arXiv 2605.10780 as they stand there."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, hidden), nn.LayerNorm(hidden, elementwise_affine=False), nn.Linear(hidden, width)
            )
            for _ in range(LAYERS)
        )
        self.router = nn.Linear(LAYERS * width, LAYERS)

    def forward(self, layers: Tensor) -> Tensor:
        """Layers float32 [n, T, C] -> latent [T, C]."""
        normalised = [self.norm(layer) for layer in layers]
        logits = self.router(torch.cat(normalised, -1))
        weights = logits / (logits.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        outputs = [self.norm(expert(layer)) for expert, layer in zip(self.experts, normalised, strict=True)]
        total = sum(weights[:, k : k + 1] * output for k, output in enumerate(outputs))
        base = normalised[-1]
        return self.norm(base + 0.3 * (self.norm(total) - base))


def fusion_case(width: int, hidden: int, rounds: int) -> list[Comparison]:
    """The fusion of one size: in bfloat16 where the machine has it, and in float32."""
    torch.manual_seed(0)
    layers = (3 * torch.randn(LAYERS, TOKENS, width)).bfloat16()
    wanted = torch.randn(TOKENS, width)
    norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    fusion, loop = LayerFusion(FusionConfig(expert_hidden_dim=hidden), LAYERS, norm), Loop(width, hidden)
    stored = layers.view(LAYERS, 64, -1, width).transpose(0, 1)

    def step(network: nn.Module, latent: Callable[[], Tensor]) -> None:
        network.zero_grad()
        (latent().view_as(wanted) * wanted).mean().backward()

    def own(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            step(fusion, lambda: fusion.latent(stored))

    def parts(dtype: torch.dtype) -> tuple[Callable[[], None], Callable[[], None]]:
        read, first, hidden_units, routes, logits = (
            torch.randn(shape, dtype=torch.float32).to(dtype)
            for shape in (
                (LAYERS, TOKENS, width), (LAYERS, width, hidden), (LAYERS, TOKENS, hidden), (LAYERS, width, LAYERS),
                (LAYERS, TOKENS, LAYERS),
            )
        )  # fmt: skip
        weight, total = torch.ones(TOKENS, 1), torch.zeros(TOKENS, width)

        def products() -> None:
            torch.bmm(read, first)
            torch.bmm(hidden_units, first.mT)
            torch.bmm(read, first)
            torch.bmm(hidden_units.mT, read)
            torch.bmm(read.mT, hidden_units)
            torch.bmm(read, routes)
            torch.bmm(read.mT, logits)

        def passes() -> None:
            functional.layer_norm(layers, (width,))
            normalised, *statistics = torch.native_layer_norm(hidden_units, [hidden], None, None, 1e-5)
            torch.ops.aten.native_layer_norm_backward(
                normalised, hidden_units, [hidden], *statistics, None, None, [True, False, False]
            )
            for output in () if is_narrow(hidden, width) else read:
                total.addcmul_(functional.layer_norm(output, (width,)), weight)
                (wanted * weight).addcmul_(output, weight).to(dtype)

        return products, passes

    found = []
    for dtype in [torch.bfloat16] * has_bf16() + [torch.float32]:
        name = str(dtype).removeprefix("torch.")
        products, passes = parts(dtype)
        things = {
            "drorae": functools.partial(own, dtype),
            "loop, float32": lambda: step(loop, lambda: loop(layers.float())),
            f"products, {name}": products,
            f"passes, {name}": passes,
        }
        found.append(alternate(f"fusion C={width} h={hidden} {name}", things, rounds=rounds))
    return found


def step_case(hidden: int, rounds: int, cache: str) -> Comparison:
    """A step of the quickstart's phase 2, bfloat16 against float32 products."""
    things = {}
    for precision in ("bf16", "fp32"):
        config = override(PRESETS["quickstart"], "fusion.expert_hidden_dim", hidden)
        config = replace(config, phase2=replace(config.phase2, precision=precision))
        workshop = open_workshop(config, Runtime(threads=1, cache_dir=cache))
        tokenizer, phase = workshop.tokenizer(), config.phases[1]
        stepper = Stepper(
            tokenizer, phase, workshop.train, workshop.objective, None,
            seed=0, device=workshop.device, runtime=workshop.runtime,
        )  # fmt: skip
        things[precision] = timed(functools.partial(stepper.take, 0))
    return alternate(f"step h={hidden}", things, rounds=rounds)


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    cases = [case for width, hidden in SIZES for case in fusion_case(width, hidden, options.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        cases += [step_case(hidden, options.rounds, str(Path(folder))) for hidden in (8, 512)]
    record(
        "fusion",
        cases,
        options.out,
        "Targets: 1.25 times its products at most, and the loop at least 1.8 times as long. What goes over memory "
        "between the products, however it is done, is timed as `passes`.",
    )

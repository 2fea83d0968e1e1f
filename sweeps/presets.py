"""The sweeps that have names."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drorae.config import DECODERS, PRESETS, FusionConfig, ImagesConfig, ProbeConfig, TrialConfig
from sweeps.spec import Axis, SweepSpec

TO_PHASE_2 = replace(PRESETS["paper"], phase3=replace(PRESETS["paper"].phase3, epochs=0))
"""The published setting without the decoder's fine-tuning: every number of the paper's Tables 3, 8 and 9 is after phase
2."""
ON_LATENTS = TrialConfig(
    images=ImagesConfig(train_images=2000, val_images=800),
    fusion=FusionConfig(expert_hidden_dim=64),
    probe=ProbeConfig(steps=300),
)
"""Photographs at 32 px with one capacity, and the probe, which says how well a diffusion model learns the latents."""
CAPACITIES = Axis("capacity", (128, 256, 512, 1024, 2048, 3072, 4096, 6144))
"""Of the paper."""


PACKED: Mapping[str, int] = types.MappingProxyType({"quickstart": 6})
"""Trials of a preset that train phase 2 together where nobody says how many (`--pack`)."""
STRATEGIES: tuple[dict[str, Any], ...] = (
    # As published (arXiv 2605.10780, Sec. 3.3): the fusion before the frozen decoder, then the decoder.
    {"phase2.epochs": 6, "phase3.epochs": 6},
    # Both at once, from the same decoder, for as long; the paper says that it fails.
    {"phase2.epochs": 12, "phase2.trains": "fusion,decoder"},
    # Both at once from the beginning, for as long as both decoders together: HiRAE's way (arXiv 2609.37775).
    {"phase2.epochs": 20, "phase2.trains": "fusion,decoder", "phase2.start": "fresh"},
    # The control: without fusion the decoder goes on for as long.
    {"phase2.epochs": 12, "phase2.trains": "decoder", "fusion.variant": "last"},
    # The encoder and the decoder (the paper's Table 4), without fusion; 1e-3 would soon destroy a pretrained encoder.
    {"phase2.epochs": 12, "phase2.trains": "decoder,encoder", "phase2.lr": 1e-4, "fusion.variant": "last"},
)
"""Lists of phases, of the same number of epochs after phase 1."""


def _fusions(plain: tuple[str, ...], incremental: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Returns one point for each fusion variant, without incremental fusion or with it."""
    points = [(variant, False) for variant in plain] + [(variant, True) for variant in incremental]
    return tuple({"variant": variant, "fusion.incremental": value} for variant, value in points)


def _decoders(*names: str) -> tuple[dict[str, Any], ...]:
    """Returns one point for each decoder size."""
    sizes = ("width", "depth", "heads", "mlp_dim")
    return tuple({f"decoder.{size}": getattr(DECODERS[name], size) for size in sizes} for name in names)


SWEEPS: Mapping[str, SweepSpec] = types.MappingProxyType(
    {
        spec.name: spec
        for spec in (
            SweepSpec(
                "quickstart",
                PRESETS["quickstart"],
                # 1.5 decades of fusion parameters. LayerNorm leaves an expert of h = 1 or 2 next to nothing to say, and
                # with fewer than six sizes AICc excludes laws of three parameters, such as one that levels off.
                (Axis("capacity", (4, 7, 12, 40, 120, 360)), Axis("seed", (0, 1)), Axis("decoder.seed", (0, 1))),
                check_convergence=True,
            ),
            SweepSpec("smoke", PRESETS["smoke"], (Axis("capacity", (4, 16, 64, 256)),), check_convergence=True),
            # The two scaling axes of arXiv 2605.10780, Tables 8 and 9, and the rows of its Table 3.
            SweepSpec("capacity", TO_PHASE_2, (CAPACITIES,)),
            SweepSpec("layers", TO_PHASE_2, (Axis("layers", tuple(range(1, 13))),)),
            SweepSpec(
                "ablation",
                TO_PHASE_2,
                listed=_fusions(("last", "cross_attention", "softmax", "energy"), ("softmax", "energy")),
            ),
            # Every published fusion in the form it was published in.
            SweepSpec(
                "variants",
                PRESETS["paper"],
                listed=_fusions(("last", "mean", "mean_dc", "cross_attention"), ("softmax", "energy", "hirae")),
            ),
            SweepSpec("paper", PRESETS["paper"], (CAPACITIES,)),
            # RAE's released decoders; RAEv2 and HiRAE as published.
            SweepSpec("rae", PRESETS["rae"], listed=_decoders("B", "L", "XL")),
            SweepSpec("raev2", PRESETS["raev2"]),
            SweepSpec("hirae", PRESETS["hirae"]),
            SweepSpec("strategies", ON_LATENTS, (Axis("seed", (0, 1, 2)),), STRATEGIES),
        )
    }
)
"""Named sweeps."""

"""The sweeps that have names."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drorae.config import PRESETS
from sweeps.spec import Axis, SweepSpec

TO_PHASE_2 = replace(PRESETS["paper"], phase3=replace(PRESETS["paper"].phase3, epochs=0))
"""The published setting without the decoder's fine-tuning: every number of the paper's Tables 3, 8 and 9 is after phase
2."""
CAPACITIES = Axis("capacity", (128, 256, 512, 1024, 2048, 3072, 4096, 6144))
"""Of the paper."""


def _fusions(plain: tuple[str, ...], incremental: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Returns one point for each fusion variant, without incremental fusion or with it."""
    points = [(variant, False) for variant in plain] + [(variant, True) for variant in incremental]
    return tuple({"variant": variant, "fusion.incremental": value} for variant, value in points)


SWEEPS: Mapping[str, SweepSpec] = types.MappingProxyType(
    {
        spec.name: spec
        for spec in (
            SweepSpec(
                "quickstart",
                PRESETS["quickstart"],
                (Axis("capacity", (8, 32, 64, 128, 256, 512)), Axis("seed", (0, 1))),
            ),
            SweepSpec("smoke", PRESETS["smoke"], (Axis("capacity", (4, 16, 64, 256)),)),
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
        )
    }
)
"""Named sweeps."""

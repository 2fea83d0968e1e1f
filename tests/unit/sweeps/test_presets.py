"""The sweeps that have names."""

from __future__ import annotations

import math

from drorae.models.fusion.size import paper_params
from sweeps.presets import SWEEPS
from sweeps.spec import expand


def test_presets_expand() -> None:
    assert {name: len(expand(spec)) for name, spec in SWEEPS.items()} == {
        "quickstart": 24,
        "smoke": 4,
        "paper": 8,
        "capacity": 8,
        "layers": 12,
        "ablation": 6,
        "variants": 7,
        "rae": 3,
        "raev2": 1,
        "hirae": 1,
        "strategies": 15,
    }
    sizes = [paper_params(12, 384, config.fusion.expert_hidden_dim) for config in expand(SWEEPS["quickstart"])]
    assert math.log10(max(sizes) / min(sizes)) > 1.5

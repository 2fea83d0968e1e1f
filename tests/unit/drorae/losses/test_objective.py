"""The objective without its adversarial term."""

from __future__ import annotations

import torch
from photographs import photo

from drorae.config import ObjectiveConfig
from drorae.losses.objective import load_objective


def test_none_loads_nothing() -> None:
    assert load_objective(ObjectiveConfig(perceptual="none")).perceptual is None


def test_targets_computed_online_are_rounded_like_cached_ones() -> None:
    objective = load_objective(ObjectiveConfig(perceptual="effnet"))
    network = objective.cached
    assert network is not None
    wanted = (photo("coffee", 32).expand(2, -1, -1, -1) * 255).round().to(torch.uint8)
    painted = photo("astronaut", 32).expand(2, -1, -1, -1)
    cached = objective(painted, wanted, network.targets(wanted.float() / 255))
    online = objective(painted, wanted, None)
    assert {name: float(value) for name, value in online.items()} == {
        name: float(value) for name, value in cached.items()
    }

"""The objective without its adversarial term."""

from __future__ import annotations

import pytest
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


def test_without_a_perceptual_network_the_loss_is_l1() -> None:
    painted = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    pixels = torch.tensor([255, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found = load_objective(ObjectiveConfig(perceptual="none"))(painted, pixels, None)
    assert set(found) == {"loss", "l1"} and float(found["loss"]) == float(found["l1"]) == pytest.approx(1.5 / 3)


def test_terms_add_up_with_the_weight_that_a_config_gives() -> None:
    painted, wanted = photo("astronaut", 32), (photo("coffee", 32) * 255).round().to(torch.uint8)
    for weight in (0.0, 0.1, 2.0):
        found = load_objective(ObjectiveConfig(perceptual="effnet", perceptual_weight=weight))(painted, wanted, None)
        assert found["perceptual"] > 0
        torch.testing.assert_close(found["loss"], found["l1"] + weight * found["perceptual"])

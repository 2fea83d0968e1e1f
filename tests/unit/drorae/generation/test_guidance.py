"""Guided fields against their formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from drorae.config import GENERATORS, GeneratorConfig
from drorae.errors import UserError
from drorae.generation.guidance import classifier_free, field, guided, internal
from drorae.generation.transformer import DiTDH

CONFIG = replace(GENERATORS["tiny"], early_depth=1)
SETTINGS = [replace(CONFIG, prediction=prediction) for prediction in ("v", "x")]
IDS = ("v", "x")


def random_model(seed: int, config: GeneratorConfig = CONFIG) -> DiTDH:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiTDH(config, 3, 2, 4).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    noisy = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noisy, torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64), torch.tensor([0, 3, 1])


def by_hand(config: GeneratorConfig, predicted: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """A velocity of what was predicted."""
    return predicted if config.prediction == "v" else (noisy - predicted) / t.clamp(min=0.05).view(-1, 1, 1, 1)


@pytest.mark.parametrize("config", SETTINGS, ids=IDS)
def test_classifier_free_guidance_leads_away_from_no_class(config: GeneratorConfig) -> None:
    model, (noisy, t, labels) = random_model(0), batch()
    with_class = by_hand(config, model(noisy, t, labels).final, noisy, t)
    without = by_hand(config, model(noisy, t, torch.full((3,), 4)).final, noisy, t)
    found = classifier_free(model, config, labels, 2.5)(noisy, t)
    torch.testing.assert_close(found, without + 2.5 * (with_class - without))
    torch.testing.assert_close(classifier_free(model, config, labels, 1.0)(noisy, t), with_class)
    torch.testing.assert_close(classifier_free(model, config, labels, 0.0)(noisy, t), without)


@pytest.mark.parametrize("config", SETTINGS, ids=IDS)
def test_autoguidance_leads_away_from_a_worse_model_of_the_same_class(config: GeneratorConfig) -> None:
    small = GeneratorConfig(16, 2, 1, 16, 1, 1)
    model, worse, (noisy, t, labels) = random_model(0), random_model(1, small), batch()
    good = by_hand(config, model(noisy, t, labels).final, noisy, t)
    # The worse model may predict something else than the better one.
    bad = worse(noisy, t, labels).final
    found = guided(field(model, config, labels), field(worse, small, labels), 1.42)(noisy, t)
    torch.testing.assert_close(found, bad + 1.42 * (good - bad))


@pytest.mark.parametrize("config", SETTINGS, ids=IDS)
def test_internal_guidance_leads_away_from_the_early_output_in_one_pass(config: GeneratorConfig) -> None:
    model, (noisy, t, labels), calls = random_model(0), batch(), []
    good, bad = (by_hand(config, part, noisy, t) for part in model(noisy, t, labels))

    def counted(*inputs: Any) -> Any:
        calls.append(inputs)
        return model(*inputs)

    torch.testing.assert_close(internal(counted, config, labels, 1.78)(noisy, t), bad + 1.78 * (good - bad))
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["classifier_free", "autoguidance", "internal"])
def test_outside_its_interval_guidance_is_none(kind: str) -> None:
    model, worse, (noisy, t, labels) = random_model(0), random_model(1), batch()
    plain = field(model, CONFIG, labels)

    def made(interval: tuple[float, float]) -> Tensor:
        if kind == "classifier_free":
            return classifier_free(model, CONFIG, labels, 2.0, interval)(noisy, t)
        if kind == "internal":
            return internal(model, CONFIG, labels, 2.0, interval)(noisy, t)
        return guided(plain, field(worse, CONFIG, labels), 2.0, interval)(noisy, t)

    everywhere, nowhere = made((0.0, 1.0)), plain(noisy, t)
    # Both ends are in it.
    found = made((0.3, 0.9))
    assert torch.equal(found[0], nowhere[0]) and torch.equal(found[1:], everywhere[1:])
    assert not torch.allclose(found[1:], nowhere[1:])
    assert torch.equal(made((0.4, 0.8)), nowhere)
    with pytest.raises(UserError, match="guidance interval"):
        made((0.9, 0.3))


def test_a_worse_field_is_not_computed_where_it_does_not_count() -> None:
    def never(noisy: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the worse field was computed")

    noisy, t, labels = batch()
    plain = field(random_model(0), CONFIG, labels)
    assert torch.equal(guided(plain, never, 2.0, (0.95, 1.0))(noisy, t), plain(noisy, t))


def test_guidance_that_a_generator_was_not_trained_for_names_the_remedy() -> None:
    model, (_, _, labels) = random_model(0), batch()
    for fields in ({"condition": "none"}, {"class_dropout": 0.0}):
        with pytest.raises(UserError, match="use autoguidance"):
            classifier_free(model, replace(CONFIG, **fields), labels, 2.0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"generator\.early_depth above 0"):
        internal(model, replace(CONFIG, early_depth=0), labels, 2.0)

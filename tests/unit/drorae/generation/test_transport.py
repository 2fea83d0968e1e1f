"""The path, its times, and losses against what they are by hand and in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drorae.config import GENERATORS, GeneratorConfig
from drorae.generation.transformer import DiTDH, Prediction
from drorae.generation.transport import (
    FlowLoss,
    Model,
    draw,
    draw_times,
    flow_loss,
    noised,
    shifted,
    time_shift,
    velocity,
)

CONFIG = GeneratorConfig()


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(count: int = 4, channels: int = 3, deviation: float = 1.0) -> Tensor:
    return deviation * torch.randn(count, channels, 4, 4, generator=chance(9))


def test_shift_is_rae_s_and_never_towards_the_data() -> None:
    assert time_shift(CONFIG, 16 * 16 * 768) == pytest.approx(6.9282, abs=1e-4)
    assert time_shift(CONFIG, 100) == 1
    assert time_shift(replace(CONFIG, shift=3.0), 100) == 3
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shifted(times, 3.0), torch.tensor([0, 0.75, 1], dtype=torch.float64))
    assert torch.equal(shifted(times, 1.0), times)


def test_times_are_logit_normal_or_uniform_shifted_and_seeded() -> None:
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    for config, expected in ((CONFIG, normal.sigmoid()), (replace(CONFIG, times="uniform"), quantiles)):
        found = draw_times(config, 200_000, 3.0, chance())
        assert torch.equal(found, draw_times(config, 200_000, 3.0, chance()))
        assert not torch.equal(found, draw_times(config, 200_000, 3.0, chance(1)))
        torch.testing.assert_close(found.quantile(quantiles), 3 * expected / (1 + 2 * expected), atol=4e-3, rtol=0)


def test_the_path_runs_from_the_latent_to_noise_at_its_velocity() -> None:
    clean, noise = latents(3).double(), latents(3).double().flip(0)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    found = noised(clean, noise, t)
    assert torch.equal(found[0], clean[0]) and torch.equal(found[2], noise[2])
    torch.testing.assert_close(found[1], 0.7 * clean[1] + 0.3 * noise[1])
    step = noised(clean, noise, t + 1e-6) - found
    torch.testing.assert_close(step / 1e-6, noise - clean, atol=1e-6, rtol=1e-6)
    # Away from t = 0 a predicted latent is the velocity of the straight line to it.
    away = velocity(replace(CONFIG, prediction="x"), clean, found, t)
    torch.testing.assert_close(away[1:], (noise - clean)[1:])
    torch.testing.assert_close(away[0], torch.zeros_like(away[0]))


def measured(
    model: Model,
    config: GeneratorConfig,
    clean: Tensor,
    given: Tensor | None,
    null: Tensor | None,
    chance: torch.Generator,
) -> FlowLoss:
    """The loss at times, noise and hidden classes drawn now."""
    return flow_loss(model, config, clean, given, null, draw(config, clean.shape, given is not None, chance))


def test_a_batch_in_pieces_has_the_whole_one_s_loss() -> None:
    """So that memory, or the number of processes, changes no training."""
    clean, labels = latents(8), torch.arange(8)
    config = replace(CONFIG, class_dropout=0.5)
    draws = draw(config, clean.shape, True, chance())

    def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        assert given is not None
        return Prediction(noisy * given.view(-1, 1, 1, 1), None)

    whole = flow_loss(model, config, clean, labels, torch.full_like(labels, 9), draws).total
    parts = [
        flow_loss(model, config, clean[part], labels[part], torch.full((4,), 9), draws.part(part)).total
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_is_the_error_of_velocities_by_hand(weight: float) -> None:
    clean, config = latents(), replace(CONFIG, shift=2.0, early_depth=1, early_weight=weight)
    seen: list[tuple[Tensor, Tensor]] = []

    def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        seen.append((noisy, t))
        return Prediction(0.5 * noisy, 2 * noisy)

    found = measured(model, config, clean, None, None, chance(5))
    same = chance(5)
    t = shifted(torch.randn(4, generator=same).sigmoid(), 2.0)
    noise = torch.randn(clean.shape, generator=same)
    noisy = torch.lerp(clean, noise, t.view(-1, 1, 1, 1))
    torch.testing.assert_close(seen[0], (noisy, t))
    final, early = (((scale * noisy - noise + clean) ** 2).mean() for scale in (0.5, 2.0))
    assert found.early is not None
    torch.testing.assert_close((found.final, found.early), (final, early))
    torch.testing.assert_close(found.total, final + weight * early)


def test_predicting_the_latent_weighs_its_error_by_time() -> None:
    config, clean = replace(CONFIG, prediction="x", times="uniform"), latents(64)
    seen: list[Tensor] = []

    def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        seen.append(t)
        return Prediction(clean + 0.1, None)

    found = measured(model, config, clean, None, None, chance())
    assert (seen[0] < 0.05).any()
    torch.testing.assert_close(found.final, (0.1 / seen[0].clamp_min(0.05)).square().mean())
    assert found.early is None and found.total is found.final


def test_both_predictions_of_one_denoiser_have_one_loss() -> None:
    clean, plain = latents(16), replace(CONFIG, shift=8.0)

    def by_velocity(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        return Prediction(noisy.sin(), None)

    def by_latent(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        assert t.min() > 0.05
        return Prediction(noisy - t.view(-1, 1, 1, 1) * noisy.sin(), None)

    losses = [
        measured(model, config, clean, None, None, chance()).total
        for model, config in ((by_velocity, plain), (by_latent, replace(plain, prediction="x")))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_the_best_denoiser_of_gaussian_latents_has_the_loss_it_must(deviation: float) -> None:
    """Of variance l: l / ((1 - t)^2 l + t^2), the probe's white loss."""
    clean, variance, expected = latents(512, 32, deviation), deviation**2, []

    def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        spread = (1 - t) ** 2 * variance + t**2
        expected.append((variance / spread).mean())
        return Prediction(((t - (1 - t) * variance) / spread).view(-1, 1, 1, 1) * noisy, None)

    found = measured(model, CONFIG, clean, None, None, chance())
    assert float(found.total) == pytest.approx(float(expected[0]), rel=0.02)


def test_classes_are_hidden_at_their_rate() -> None:
    labels, seen = torch.arange(4000) % 10, []

    def model(noisy: Tensor, t: Tensor, given: Tensor | None) -> Prediction:
        assert given is not None
        seen.append(given)
        return Prediction(noisy, None)

    clean = torch.zeros(4000, 1, 1, 1)
    for share in (0.0, 0.1, 1.0):
        for _ in range(2):
            measured(model, replace(CONFIG, class_dropout=share), clean, labels, torch.full_like(labels, 10), chance())
        hidden = seen[-1] == 10
        assert float(hidden.float().mean()) == pytest.approx(share, abs=0.02)
        assert torch.equal(seen[-1][~hidden], labels[~hidden]) and torch.equal(seen[-1], seen[-2])


def test_a_small_generator_learns_where_the_latents_lie() -> None:
    config = replace(GENERATORS["tiny"], early_depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiTDH(config, 3, 4, 2)
    labels = torch.arange(32) % 2
    clean = (2.0 * labels - 1).view(-1, 1, 1, 1) + 0.1 * latents(32)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(120):
        found = measured(model, config, clean, labels, model.condition.null(32), chance(step))
        optimiser.zero_grad()
        torch.autograd.backward(found.total)
        optimiser.step()
        losses.append(found)
    assert losses[-1].early is not None
    # Where nothing is learned a loss is that of v_hat = 0, |v|^2 = 2.
    assert losses[0].final.item() == pytest.approx(2, abs=0.3)
    assert losses[-1].final.item() < 0.6 and losses[-1].early.item() < 1

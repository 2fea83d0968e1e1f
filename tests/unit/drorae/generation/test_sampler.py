"""Samplers against the exact solution for Gaussian latents, and seeds that belong to images."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from drorae.config import GENERATORS
from drorae.errors import UserError
from drorae.generation.guidance import field
from drorae.generation.sampler import Method, initial_noise, integrate, rae_time_grid, time_grid
from drorae.generation.transformer import DiTDH

MEAN, DEVIATION = 1.5, 0.4


def gaussian_field(noisy: Tensor, t: Tensor) -> Tensor:
    """E[eps - x | x_t] where latents are normal with MEAN and DEVIATION."""
    time, variance = t.view(-1, 1), DEVIATION**2
    spread = (1 - time) ** 2 * variance + time**2
    return (time - (1 - time) * variance) / spread * (noisy - (1 - time) * MEAN) - MEAN


def exact(noise: Tensor, t: float) -> Tensor:
    """Where that field takes noise from t = 1: (1 - t) mean + sqrt((1 - t)^2 variance + t^2) noise."""
    return (1 - t) * MEAN + math.hypot((1 - t) * DEVIATION, t) * noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_with_the_order_of_the_method(method: Method, order: int, shift: float) -> None:
    noise = torch.linspace(-2, 2, 8, dtype=torch.float64).view(4, 2)
    errors = [
        float((integrate(gaussian_field, noise, time_grid(steps, shift), method) - exact(noise, 0)).abs().max())
        for steps in (400, 800, 1600)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert errors[-1] < {1: 5e-3, 2: 1e-6}[order]


def test_samples_are_distributed_as_the_latents() -> None:
    noise = initial_noise(range(2000), (3,)).double()
    found = integrate(gaussian_field, noise, time_grid(50, 2.0), "heun")
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(found.std()) == pytest.approx(DEVIATION, rel=0.03)


def test_the_last_time_is_where_the_sampler_stops() -> None:
    noise = torch.linspace(-2, 2, 8, dtype=torch.float64).view(4, 2)
    found = integrate(gaussian_field, noise, time_grid(400, 1.0, end=0.3), "heun")
    torch.testing.assert_close(found, exact(noise, 0.3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("method", "calls"), [("euler", 5), ("heun", 10)])
def test_so_many_steps_are_taken(method: Method, calls: int) -> None:
    seen: list[float] = []

    def counted(noisy: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        seen.append(float(t[0]))
        return noisy

    integrate(counted, torch.ones(2, 3), time_grid(5, 1.0), method)
    assert len(seen) == calls and seen[0] == 1 and min(seen) >= 0


def test_grids_are_those_published() -> None:
    shift = math.sqrt(16 * 16 * 768 / 4096)
    rae = rae_time_grid(50, shift)
    assert len(rae) == 50 and rae[0] == 1
    assert rae[-1] == pytest.approx(shift * 0.001 / (1 + (shift - 1) * 0.001)) == pytest.approx(0.00689, abs=1e-5)
    middle = 1 - 0.999 * 20 / 49
    assert rae[20] == pytest.approx(shift * middle / (1 + (shift - 1) * middle))
    assert time_grid(4, 1.0) == [1, 0.75, 0.5, 0.25, 0]
    assert time_grid(2, 3.0) == [1, 0.75, 0]
    with pytest.raises(UserError, match="sampling steps: 0"):
        rae_time_grid(1, shift)


def test_an_image_s_noise_is_its_own() -> None:
    every = initial_noise(range(6), (3, 2, 2), seed=7)
    assert torch.equal(every[[4, 1]], initial_noise([4, 1], (3, 2, 2), seed=7))
    assert torch.equal(every[5:], initial_noise([5], (3, 2, 2), seed=7))
    assert len({tuple(noise.flatten().tolist()) for noise in every}) == 6
    assert not torch.equal(every, initial_noise(range(6), (3, 2, 2), seed=8))
    # Neither (seed, index) pairs of one sum nor swapped ones are one.
    assert not torch.equal(initial_noise([1], (4,), seed=2), initial_noise([2], (4,), seed=1))
    before = torch.get_rng_state()
    initial_noise([0], (4,))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_subset_is_drawn_again_in_batches_of_any_size(method: Method) -> None:
    config = GENERATORS["tiny"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiTDH(config, 3, 4, 10).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)

    def drawn(indices: list[int]) -> Tensor:
        labels = torch.tensor([index % 10 for index in indices])
        return integrate(field(model, config, labels), initial_noise(indices, (3, 4, 4), 3), time_grid(4, 2.0), method)

    every = drawn(list(range(12)))
    # To the bit where the batch is the same, within the tolerance of floats where it is another.
    assert torch.equal(every, drawn(list(range(12))))
    assert every.std() > 0.1
    for indices in ([7], [3, 11, 0], list(range(5, 12))):
        torch.testing.assert_close(drawn(indices), every[indices], atol=1e-5, rtol=1e-4)

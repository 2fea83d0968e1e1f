"""The Gaussian per position: its moments are the latents', its draws are theirs again and know of no other position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from drorae.diagnostics.gaussian import PositionGaussian, fit_gaussian

POSITIONS, CHANNELS = 3, 4


def latents(n: int, seed: int = 0) -> Tensor:
    """Correlated over channels, otherwise at every position, and over positions; far from zero."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(POSITIONS, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(9))
    own, common = torch.randn(n, POSITIONS, CHANNELS, generator=generator), torch.randn(n, 1, 1, generator=generator)
    return torch.einsum("ncd,bnd->bnc", mixing, own + common) + 100


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_moments_are_numpy_s(batch: int) -> None:
    rows = latents(50)
    found = fit_gaussian(rows.split(batch), 50)
    assert found.record() == {"gaussian_covariance": "full", "gaussian_images": 50}
    torch.testing.assert_close(found.mean, rows.mean(0))
    for position in range(POSITIONS):
        expected = np.cov(rows[:, position].double().numpy(), rowvar=False)
        cov = (found.root[position] @ found.root[position].T).numpy()
        np.testing.assert_allclose(cov, expected, rtol=1e-4, atol=1e-4)


def test_few_latents_give_deviations_alone() -> None:
    rows = latents(2 * CHANNELS - 1)
    found = fit_gaussian(rows.split(3), len(rows))
    assert found.record() == {"gaussian_covariance": "diagonal", "gaussian_images": 7}
    torch.testing.assert_close(found.root, rows.std(0), rtol=1e-4, atol=1e-5)
    assert fit_gaussian(latents(8).split(3), 8).form == "full"
    assert found.draw(range(5), 0).shape == (5, POSITIONS, CHANNELS)


def test_draws_have_the_moments_and_no_memory_of_other_positions() -> None:
    rows = latents(4000)
    found = fit_gaussian(rows.split(500), 4000)
    drawn = found.draw(range(4000), seed=0)
    again = fit_gaussian([drawn], 4000)
    torch.testing.assert_close(again.mean, found.mean, rtol=0, atol=0.2)
    torch.testing.assert_close(again.root, found.root, rtol=0, atol=0.2)

    def between(some: Tensor) -> float:
        centred = some - some.mean(0)
        return float((centred[:, 0, 0] * centred[:, 1, 0]).mean().abs())

    assert between(drawn) < 0.1 * between(rows)


def test_any_subset_is_drawn_again() -> None:
    found = fit_gaussian([latents(50)], 50)
    whole = found.draw(range(6), seed=3)
    torch.testing.assert_close(torch.cat([found.draw([4, 2], 3), found.draw([5], 3)]), whole[[4, 2, 5]])
    assert not torch.equal(found.draw([0], 3), found.draw([0], 4))
    deviations = PositionGaussian(found.mean, torch.zeros_like(found.mean), 50)
    torch.testing.assert_close(deviations.draw([1], 0)[0], found.mean)


def test_a_constant_channel_stays_constant() -> None:
    rows = latents(50)
    rows[:, :, 1] = 5
    drawn = fit_gaussian([rows], 50).draw(range(20), 0)
    torch.testing.assert_close(drawn[:, :, 1], torch.full_like(drawn[:, :, 1], 5), rtol=0, atol=0.05)
    assert torch.isfinite(fit_gaussian([torch.zeros(20, 2, 3)], 20).draw([0], 0)).all()


def test_another_number_than_announced_is_refused() -> None:
    with pytest.raises(ValueError, match="of 51 latents, got 50"):
        fit_gaussian([latents(50)], 51)
    with pytest.raises(ValueError, match="2 or more"):
        fit_gaussian([latents(1)], 1)

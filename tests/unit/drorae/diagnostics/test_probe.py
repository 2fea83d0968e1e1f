"""The probe: its linear part against least squares, and that it learns, ranks and repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from drorae.config import ProbeConfig
from drorae.diagnostics.probe import VelocityModel, held_out_loss, latent_space, linear_loss, train_probe
from drorae.errors import UserError

CPU = torch.device("cpu")
SMALL = ProbeConfig(steps=60, width=32, depth=2, heads=2, batch_size=32, lr=3e-3)


def drawn(kind: str, count: int, seed: int) -> torch.Tensor:
    """Latents [count, 4, 8]: noise; correlated channels; or the four tokens of an image alike up to a little noise."""
    noise = torch.Generator().manual_seed(seed)
    independent = torch.randn(count, 4, 8, generator=noise)
    if kind == "noise":
        return independent
    if kind == "correlated":
        return independent[..., :2] @ torch.randn(2, 8, generator=torch.manual_seed(7)) + 0.1 * independent
    return independent[:, :1] + 0.3 * torch.randn(count, 4, 8, generator=noise)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_linear_loss_is_that_of_least_squares(t: float) -> None:
    space = latent_space(drawn("correlated", 20000, 0) * torch.arange(1, 9) + 3)
    clean = space.coordinates(drawn("correlated", 20000, 0) * torch.arange(1, 9) + 3)
    x = clean.reshape(-1, 8).double().numpy()
    eps = np.random.default_rng(0).normal(size=x.shape)
    noisy, target = (1 - t) * x + t * eps, eps - x
    solution = np.linalg.lstsq(noisy, target, rcond=None)[0]
    assert linear_loss(space, clean, t) == pytest.approx(np.mean((noisy @ solution - target) ** 2), rel=0.02)


def test_training_starts_from_the_linear_denoiser() -> None:
    latents = drawn("correlated", 2000, 0)
    space = latent_space(latents)
    model = VelocityModel(SMALL, space.variances, 2)
    for t in SMALL.levels:
        measured = held_out_loss(model, space.coordinates(latents), t, SMALL, CPU)
        assert measured == pytest.approx(linear_loss(space, space.coordinates(latents), t), rel=0.02)


@pytest.mark.slow
def test_the_loss_falls_with_training_and_is_reproducible() -> None:
    train, held_out = drawn("alike", 256, 0), drawn("alike", 128, 1)
    short = train_probe(train, held_out, replace(SMALL, steps=20), CPU)
    rows: list[dict[str, float | str]] = []
    long = train_probe(train, held_out, replace(SMALL, steps=200), CPU, rows.append)
    assert long["probe_loss"] < short["probe_loss"] < 1.02 * short["probe_linear"]
    # Three other tokens tell most about each: single tokens cannot come near.
    assert long["probe_loss"] < 0.8 * long["probe_linear"]
    assert [row["step"] for row in rows] == [float(step) for step in range(10, 201, 10)]
    assert train_probe(train, held_out, replace(SMALL, steps=20), CPU) == short
    assert train_probe(train, held_out, replace(SMALL, steps=20, seed=1), CPU) != short


def test_structured_latents_rank_before_noise() -> None:
    losses = {
        kind: train_probe(drawn(kind, 512, 0), drawn(kind, 256, 1), SMALL, CPU)
        for kind in ("noise", "correlated", "alike")
    }
    assert losses["noise"]["probe_loss"] > 1.05 * losses["alike"]["probe_loss"]
    assert losses["noise"]["probe_loss"] > 1.2 * losses["correlated"]["probe_loss"]
    # Noise of variance 1 leaves nothing to learn but the variances.
    assert losses["noise"]["probe_relative"] == pytest.approx(1, abs=0.05)
    assert losses["noise"]["probe_loss_t50"] == pytest.approx(2, rel=0.05)


def test_scale_and_shift_of_channels_do_not_count() -> None:
    train, held_out = drawn("alike", 256, 0), drawn("alike", 128, 1)
    scale = 2.0 ** torch.arange(-4, 4)
    same = train_probe(train, held_out, SMALL, CPU)
    assert train_probe(train * scale, held_out * scale, SMALL, CPU) == same
    moved = train_probe(train * 3 + 5, held_out * 3 + 5, SMALL, CPU)
    assert moved["probe_linear"] == pytest.approx(same["probe_linear"], rel=1e-4)


def test_a_foreign_scale_counts() -> None:
    """Noise twice as wide as what it is divided by: in closed form, and where the probe ends."""
    train, held_out = 2 * drawn("noise", 512, 0), 2 * drawn("noise", 256, 1)
    wide = train_probe(train, held_out, replace(SMALL, steps=20), CPU, deviation=torch.ones(8))
    # Variance l = 4 leaves l / ((1 - t)^2 l + t^2) in v.
    for name, t in (("probe_loss_t25", 0.25), ("probe_loss_t50", 0.5), ("probe_loss_t75", 0.75)):
        assert wide[name] == pytest.approx(4 / (4 * (1 - t) ** 2 + t**2), rel=0.08)
    assert wide["probe_relative"] == pytest.approx(1, abs=0.05)


def test_a_constant_channel_is_no_trouble() -> None:
    train, held_out = drawn("noise", 64, 0), drawn("noise", 64, 1)
    train[..., 3] = held_out[..., 3] = 2.0
    assert np.isfinite(list(train_probe(train, held_out, replace(SMALL, steps=5), CPU).values())).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"levels": (0.0, 0.5)}, "levels"),
        ({"levels": (0.501, 0.502)}, "probe.levels"),
        ({"heads": 3}, "probe.width"),
        ({"steps": -1}, "steps"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        train_probe(drawn("noise", 32, 0), drawn("noise", 32, 1), replace(SMALL, **changes), CPU)
    with pytest.raises(UserError, match="square grid"):
        train_probe(torch.zeros(8, 3, 8), torch.zeros(8, 3, 8), SMALL, CPU)

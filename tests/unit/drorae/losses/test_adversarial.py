"""The adversarial loss, and its adaptive weight where the decoder is frozen."""

from __future__ import annotations

import pytest
import torch

from drorae.config import DecoderConfig
from drorae.losses.adversarial import adaptive_weight, hinge_loss
from drorae.models.decoder import Decoder


def test_hinge_loss_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0, 1.0])
    assert hinge_loss(real, fake) == pytest.approx(((0 + 0.5) / 2 + (0 + 1 + 2) / 3) / 2)


def test_adaptive_weight_of_a_frozen_decoder_is_that_of_a_trained_one() -> None:
    """Phase 2 freezes the last weight; the ratio must be what autograd gives where it is not frozen."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(32, 2, 2, 64), 16, 2, 16)
    latent = torch.randn(3, 4, 16, requires_grad=True)

    def losses(offset: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        painted = decoder(latent, offset)
        return painted.abs().mean(), (painted**3).mean()

    expected = [torch.autograd.grad(loss, decoder.head.weight, retain_graph=True)[0].norm() for loss in losses(None)]
    decoder.requires_grad_(False)
    before = decoder.head.weight.clone()
    offset = torch.zeros_like(decoder.head.weight, requires_grad=True)
    gradients = [torch.autograd.grad(loss, offset, retain_graph=True)[0] for loss in losses(offset)]
    weight = adaptive_weight(*gradients, 1e4)
    assert weight == pytest.approx(float(expected[0] / (expected[1] + 1e-6)), rel=1e-5)
    assert adaptive_weight(*gradients, 0.01) == pytest.approx(0.01)
    assert torch.equal(decoder.head.weight, before) and decoder.head.weight.grad is None
    assert not weight.requires_grad

"""Augmentation of what the discriminator sees."""

from __future__ import annotations

import torch
from small_discriminator import images

from drorae.losses.augment import augment


def test_augmentation_is_differentiable_and_keeps_the_batch_apart() -> None:
    pictures = (2 * images(4) - 1).requires_grad_()
    torch.manual_seed(0)
    changed = augment(pictures)
    assert changed.shape == pictures.shape and not torch.equal(changed, pictures)
    (gradient,) = torch.autograd.grad(changed[1].sum(), pictures)
    assert gradient[1].abs().sum() > 0 and gradient[[0, 2, 3]].abs().sum() == 0
    torch.manual_seed(0)
    assert torch.equal(augment(pictures), changed)

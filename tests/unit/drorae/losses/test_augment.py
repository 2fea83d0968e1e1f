"""Augmentation of what the discriminator sees."""

from __future__ import annotations

import torch
from small_discriminator import images

from drorae.losses.augment import Draws, augment, draw


def test_augmentation_is_differentiable_and_keeps_the_batch_apart() -> None:
    pictures = (2 * images(4) - 1).requires_grad_()
    torch.manual_seed(0)
    changed = augment(pictures)
    assert changed.shape == pictures.shape and not torch.equal(changed, pictures)
    (gradient,) = torch.autograd.grad(changed[1].sum(), pictures)
    assert gradient[1].abs().sum() > 0 and gradient[[0, 2, 3]].abs().sum() == 0
    torch.manual_seed(0)
    assert torch.equal(augment(pictures), changed)


def test_an_augmentation_is_its_draws_image_by_image() -> None:
    pictures = 2 * images(4) - 1
    torch.manual_seed(0)
    draws = draw(4, 64, 64, pictures.device)
    together = augment(pictures, draws)
    assert torch.equal(augment(pictures[1:3], draws.part(slice(1, 3))), together[1:3])


def test_no_change_of_colour_and_a_shift_move_the_picture_and_pad_with_zeros() -> None:
    # Of colours a half changes nothing; of the 16 px of shifts 8 do.
    pictures = 2 * images(2) - 1
    colours = torch.full((3, 2, 1, 1, 1), 0.5)
    still = augment(pictures, Draws(colours, torch.full((2, 2, 1), 8)))
    torch.testing.assert_close(still, pictures)
    moved = augment(pictures, Draws(colours, torch.tensor([[[0], [8]], [[8], [16]]])))
    torch.testing.assert_close(moved[0, :, 8:], pictures[0, :, :-8])
    torch.testing.assert_close(moved[1, :, :, :-8], pictures[1, :, :, 8:])
    assert (moved[0, :, :8] == 0).all() and (moved[1, :, :, -8:] == 0).all()


def test_what_is_shifted_in_is_coloured_where_shifts_come_first() -> None:
    """RAE's order. Brightness alone is drawn, half of its range: 0.5 of the padding's zeros."""
    pictures = 2 * images(2) - 1
    colours = torch.full((3, 2, 1, 1, 1), 0.5)
    colours[0] = 1.0
    shifts = torch.tensor([[[0], [0]], [[8], [8]]])
    late, first = (augment(pictures, Draws(colours, shifts), shift_first=order) for order in (False, True))
    assert (late[:, :, :8] == 0).all()
    torch.testing.assert_close(first[:, :, :8], torch.full_like(first[:, :, :8], 0.5))
    torch.testing.assert_close(first[:, :, 8:], late[:, :, 8:])

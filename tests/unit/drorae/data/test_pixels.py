"""Pixels of 8 bits, from numbers and back."""

from __future__ import annotations

import torch

from drorae.data.pixels import as_images, to_uint8


def test_to_uint8_clamps_and_rounds_half_to_even() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5 / 255, 1.5 / 255, 2.4 / 255, 1.0, 7.0, 0.999])
    assert to_uint8(values).tolist() == [0, 0, 0, 2, 2, 255, 255, 255]
    assert to_uint8(values, "truncate").tolist() == [0, 0, 0, 1, 2, 255, 255, 254]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 255), every)


def test_pixels_are_numbers_between_0_and_1_and_come_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = as_images(every)
    assert images.dtype == torch.float32 and float(images.min()) == 0 and float(images.max()) == 1
    assert torch.equal(to_uint8(images), every)

"""A decoder's output against what its file was trained to paint, told by its images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from drorae.config import DecoderConfig
from drorae.models.decoder import Decoder
from drorae.models.released_output import better_output

STATISTICS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "siglip": ((0.5,) * 3, (0.5,) * 3)}


def encoder(family: str) -> Any:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS[family])
    return SimpleNamespace(mean=mean, std=std)


@pytest.mark.parametrize("family", STATISTICS)
@pytest.mark.parametrize("paints", ["pixels", "normalised"])
def test_a_good_decoder_fits_one_output_and_asks_for_it(family: str, paints: str) -> None:
    """The network paints the original, blurred by noise of 0.1, as its authors trained it to."""
    generator, behind = torch.Generator().manual_seed(0), encoder(family)
    wanted = torch.rand(4, 3, 16, 16, generator=generator)
    image = wanted + 0.1 * torch.randn(wanted.shape, generator=generator)
    raw = image if paints == "pixels" else (image - behind.mean) / behind.std
    outputs: tuple[Literal["none", "encoder"], ...] = ("none", "encoder")
    for output in outputs:
        decoder = Decoder(DecoderConfig(32, 1, 2, 64, output=output), 64, 2, 16, (behind.mean, behind.std))
        painted = raw * decoder.std + decoder.mean
        right = "none" if paints == "pixels" else "encoder"
        assert better_output(decoder, behind, painted, wanted) == ("" if output == right else right)


def test_an_untrained_decoder_asks_for_nothing() -> None:
    behind, wanted = encoder("imagenet"), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    decoder = Decoder(DecoderConfig(32, 1, 2, 64), 64, 2, 16)
    assert better_output(decoder, behind, 0.2 * torch.randn_like(wanted) + decoder.mean, wanted) == ""

"""The decoder's geometry and sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from drorae.config import DECODERS, DecoderConfig
from drorae.errors import UserError
from drorae.models.decoder import Decoder, sincos_positions


def test_patches_land_where_their_tokens_are() -> None:
    decoder = Decoder(DecoderConfig(64, 0, 4, 64), latent_width=8, grid=4, size=32)
    latent = torch.zeros(1, 16, 8)
    other = latent.clone()
    other[0, 6] = 1.0
    changed = (decoder(latent) != decoder(other)).any(1)[0]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:16, 16:24] = True
    assert not changed[~expected].any() and changed[expected].any()


def test_output_is_denormalised_with_imagenets_statistics() -> None:
    decoder = Decoder(DECODERS["tiny"], 8, 4, 32)
    torch.nn.init.zeros_(decoder.head.weight)
    image = decoder(torch.randn(2, 16, 8))
    assert torch.allclose(image[0, :, 5, 5], torch.tensor([0.485, 0.456, 0.406]))
    assert image.shape == (2, 3, 32, 32)


def test_positions_hold_timms_sines_and_cosines() -> None:
    """timm's own table has the same 64 values per position, in another order of its four quarters."""
    ours = sincos_positions(6, 64)
    theirs = build_sincos2d_pos_embed([6, 6], dim=64, temperature=10000.0)
    assert torch.allclose(ours.sort(-1).values, theirs.sort(-1).values, atol=1e-5)
    assert len(torch.unique(ours, dim=0)) == 36


@pytest.mark.parametrize(("name", "millions"), [("B", 86.4), ("L", 303.9), ("XL", 415.8)])
def test_sizes_of_raes_decoders(name: str, millions: float) -> None:
    """Counted by hand: depth (4 w^2 + 2 w m + 9 w + m) + (C + 1) w + w + 2 w + (w + 1) 768 at C = 768."""
    config = DECODERS[name]
    w, m = config.width, config.mlp_dim
    expected = config.depth * (4 * w * w + 2 * w * m + 9 * w + m) + 769 * w + 3 * w + (w + 1) * 768
    with torch.device("meta"):
        decoder = Decoder(config, 768, 16, 256)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.8)


def test_sizes_that_do_not_divide_are_named() -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        Decoder(DECODERS["tiny"], 8, 4, 30)
    with pytest.raises(UserError, match=r"decoder\.heads"):
        Decoder(DecoderConfig(width=100, heads=3), 8, 4, 32)


def test_a_decoder_begins_as_raes_where_it_is_asked_to() -> None:
    """torch's own linear layers, in the order in which they are made, and a class token of zeros."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(64, 1, 4, 64, init="linear"), latent_width=8, grid=4, size=32)
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 64)
    assert torch.equal(decoder.embed.weight, linear.weight) and torch.equal(decoder.embed.bias, linear.bias)
    assert not decoder.class_token.any() and decoder.class_token.requires_grad


@pytest.mark.parametrize(
    ("output", "shade"), [("imagenet", (0.485, 0.456, 0.406)), ("encoder", (0.5, 0.5, 0.5)), ("none", (0, 0, 0))]
)
def test_what_is_painted_is_denormalised_as_the_config_says(output: Any, shade: tuple[float, ...]) -> None:
    """RAE: by the encoder's own preprocessing, 0.5 of a SigLIP; RAEv2: not at all."""
    half = torch.full((1, 3, 1, 1), 0.5)
    config = dataclasses.replace(DECODERS["tiny"], output=output)
    decoder = Decoder(config, 8, 4, 32, (half, half))
    for parameter in (decoder.head.weight, decoder.head.bias):
        torch.nn.init.zeros_(parameter)
    assert torch.allclose(decoder(torch.randn(1, 16, 8))[0, :, 5, 5], torch.tensor(shade).float())

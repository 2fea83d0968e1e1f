"""Latents and their statistics, against numpy on all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drorae.config import DecoderConfig, FusionConfig
from drorae.data.batch import Batch
from drorae.diagnostics.latents import as_map, as_tokens, element_statistics, latent_batches, latent_statistics
from drorae.errors import UserError
from drorae.models.decoder import Decoder
from drorae.models.fusion.registry import LayerFusion
from drorae.models.tokenizer import Tokenizer


class Layers:
    """Features of 11 images of nine tokens, kept in memory."""

    pixels = torch.randint(0, 256, (11, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    layers = torch.randn(11, 3, 9, 8, generator=torch.Generator().manual_seed(0)) + 100

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, items: np.ndarray, epoch: int, num_layers: int) -> Batch:
        return Batch(self.pixels[items], self.layers[items][:, -num_layers:], None)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    fusion = LayerFusion(FusionConfig(variant="mean", incremental=False), 3, nn.LayerNorm(8))
    encoder = nn.ModuleDict({"norm": nn.LayerNorm(8)})
    encoder.norm = encoder["norm"]
    return Tokenizer(encoder, fusion, Decoder(DecoderConfig(32, 1, 2, 64), 8, 3, 6)).eval()  # type: ignore[arg-type]


def test_a_map_is_the_tokens_row_by_row() -> None:
    tokens = torch.arange(2 * 9 * 4.0).reshape(2, 9, 4)
    found = as_map(tokens)
    assert found.shape == (2, 4, 3, 3)
    assert all(
        torch.equal(found[:, :, row, column], tokens[:, 3 * row + column]) for row in range(3) for column in range(3)
    )
    assert torch.equal(as_tokens(found), tokens)


@pytest.mark.parametrize("batch", [1, 4, 11, 64])
def test_statistics_are_those_of_all_latents_at_once(tokenizer: Tokenizer, batch: int) -> None:
    latents = as_map(F.layer_norm(Layers.layers, (8,)).mean(1)).double().numpy()
    found = latent_statistics(tokenizer, Layers(), batch_size=batch)
    assert found.images == 11 and found.mean.shape == found.std.shape == (8, 3, 3)
    np.testing.assert_allclose(found.mean.numpy(), latents.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.std.numpy(), np.sqrt(latents.var(0) + 1e-5), atol=1e-5)


def test_a_part_of_the_images_is_evenly_spaced(tokenizer: Tokenizer) -> None:
    latents = as_map(F.layer_norm(Layers.layers, (8,)).mean(1))[[0, 5, 10]]
    found = latent_statistics(tokenizer, Layers(), images=3)
    assert found.images == 3
    torch.testing.assert_close(found.mean, latents.mean(0), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="-1 of 11 images"):
        latent_statistics(tokenizer, Layers(), images=-1)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_statistics_of_batches_normalise_every_element(size: int) -> None:
    latents = 3 * torch.randn(20, 4, 2, 2, generator=torch.Generator().manual_seed(0)) + 100
    found = element_statistics(iter(latents.split(size)))
    normalised = found.normalise(latents)
    torch.testing.assert_close(normalised, (latents - latents.mean(0)) / (latents.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(normalised.mean(0), torch.zeros(4, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.denormalise(normalised), latents)
    with pytest.raises(UserError, match="no latents"):
        element_statistics(iter(()))


def test_latents_come_with_the_crops_that_they_are_of(tokenizer: Tokenizer) -> None:
    items = np.array([7, 2, 9])
    batches = list(latent_batches(tokenizer, Layers(), items, 2, fused=False))
    assert [len(latents) for latents, _ in batches] == [2, 1]
    assert torch.equal(torch.cat([pixels for _, pixels in batches]), Layers.pixels[items])
    torch.testing.assert_close(torch.cat([found for found, _ in batches]), F.layer_norm(Layers.layers[items, -1], (8,)))

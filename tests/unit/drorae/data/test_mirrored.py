"""Centre crops of training images and their flips, and latents' statistics over both in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, centre_crop
from drorae.data.features import OnlineFeatures
from drorae.data.images import load_images
from drorae.data.mirrored import VIEWS, Mirrored
from drorae.data.pixels import as_images
from drorae.diagnostics.latents import latent_statistics
from drorae.models.encoder import LayerFeatures


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), np.uint8)


@pytest.fixture
def images(pictures: np.ndarray, tmp_path: Path) -> CropSet:
    np.savez(tmp_path / "images.npz", train=pictures, val=255 - pictures[:2])
    config = ImagesConfig(source="npz", path=str(tmp_path / "images.npz"), size=8, resize=12, views=0)
    return load_images(config).train


def test_views_are_the_evaluation_crop_and_its_flip(images: CropSet, pictures: np.ndarray) -> None:
    found, expected = Mirrored(images), np.stack([centre_crop(picture, 8) for picture in pictures])
    assert len(found) == 5 and not np.array_equal(images.crops(range(5)), expected)
    assert np.array_equal(found.crops(range(5)), expected)
    assert np.array_equal(found.crops([3, 0], view=1), expected[[3, 0], :, ::-1])
    assert images.training, "the set itself is as it was"


def test_a_part_of_the_images_is_evenly_spaced_and_another_set(images: CropSet, pictures: np.ndarray) -> None:
    part = Mirrored(images, 3)
    assert np.array_equal(part.crops(range(3)), np.stack([centre_crop(pictures[index], 8) for index in (0, 2, 4)]))
    sets = (images, images.centred(), part, Mirrored(images))
    assert len({each.fingerprint for each in sets}) == 4
    assert len(Mirrored(images, 9)) == 5


class Patches(nn.Module):
    """An encoder and a tokenizer whose latents are the mean colours of 2 x 2 patches."""

    encodes = False

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.embed = nn.Linear(1, 1)
        self.fusion = nn.Module()
        self.fusion.num_layers = self.fusion.reads = 1

    def forward(self, crops: torch.Tensor, num_layers: int = 0) -> LayerFeatures:
        tokens = nn.functional.avg_pool2d(crops, 4).flatten(2).transpose(1, 2)
        return LayerFeatures(tokens[:, None], tokens)

    def latent(self, layers: torch.Tensor, fused: bool = True) -> torch.Tensor:
        return layers[:, -1]


def test_statistics_are_those_of_crops_and_flips_together(images: CropSet, pictures: np.ndarray) -> None:
    """With a crop's left mean l and right mean r, both columns have mean (l + r) / 2 and the same spread about it."""
    patches = Patches()
    features = OnlineFeatures(Mirrored(images), patches, torch.float32, VIEWS, torch.device("cpu"))  # type: ignore[arg-type]
    found = latent_statistics(patches, features, batch_size=3)  # type: ignore[arg-type]
    crops = torch.from_numpy(np.stack([centre_crop(picture, 8) for picture in pictures])).permute(0, 3, 1, 2)
    means = nn.functional.avg_pool2d(as_images(crops), 4).double()
    mean = means.mean((0, 3))
    spread = ((means - mean[None, :, :, None]).square().mean((0, 3)) + 1e-5).sqrt()
    assert found.images == 10
    for column in (0, 1):
        torch.testing.assert_close(found.mean[:, :, column], mean.float(), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.std[:, :, column], spread.float(), atol=1e-6, rtol=0)

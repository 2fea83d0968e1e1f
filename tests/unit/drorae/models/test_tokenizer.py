"""The tokenizer as its parts, and what its seeds draw."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config

from drorae.config import TrialConfig, override
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.tokenizer import build_tokenizer
from drorae.models.weights import state_sha256


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    return tiny_config(tmp_path_factory.mktemp("images") / "none.npz")


@pytest.fixture(scope="module")
def encoder(config: TrialConfig) -> Encoder:
    return load_encoder(config.encoder, "unused")


def test_images_go_through_encoder_fusion_and_decoder(config: TrialConfig, encoder: Encoder) -> None:
    tokenizer = build_tokenizer(config, encoder).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = encoder(images).layers
    assert torch.equal(tokenizer.base(layers), encoder.norm(layers[:, -1]))
    assert torch.equal(tokenizer.latent(layers, fused=False), tokenizer.base(layers))
    assert torch.equal(tokenizer.encode(images), tokenizer.fusion(layers).latent)
    assert not torch.equal(tokenizer.encode(images), tokenizer.base(layers))
    painted = tokenizer(images)
    assert painted.shape == images.shape and torch.equal(painted, tokenizer.decoder(tokenizer.encode(images)))


def test_the_decoder_takes_the_encoders_own_statistics_where_it_is_asked_to(
    config: TrialConfig, encoder: Encoder
) -> None:
    """timm's tiny ViT normalises by 0.5, unlike ImageNet's mean."""
    painted = {
        output: build_tokenizer(override(config, "decoder.output", output), encoder).decoder
        for output in ("imagenet", "encoder")
    }
    assert torch.equal(painted["encoder"].mean, encoder.mean) and torch.equal(painted["encoder"].std, encoder.std)
    assert not torch.equal(painted["imagenet"].mean, encoder.mean)


def test_each_seed_draws_its_own_module_and_leaves_torch_s_alone(config: TrialConfig, encoder: Encoder) -> None:
    def digests(name: str, value: int) -> tuple[str, str]:
        tokenizer = build_tokenizer(override(config, name, value), encoder)
        return state_sha256(tokenizer.decoder.state_dict()), state_sha256(tokenizer.fusion.state_dict())

    before = torch.random.get_rng_state()
    decoder, fusion = digests("seed", 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert digests("seed", 0) == (decoder, fusion)
    other = digests("seed", 1)
    assert other[0] == decoder and other[1] != fusion
    other = digests("decoder.seed", 1)
    assert other[0] != decoder and other[1] == fusion

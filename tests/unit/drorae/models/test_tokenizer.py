"""The tokenizer as its parts, as diffusers' AutoencoderRAE from end to end, and what its seeds draw."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny import tiny_config

from drorae.config import (
    DECODERS,
    DecoderConfig,
    EncoderConfig,
    FusionConfig,
    ImagesConfig,
    TrialConfig,
    override,
)
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.rae_decoder import read_released
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
    assert torch.equal(tokenizer.encode(images), tokenizer.fusion.latent(layers))
    torch.testing.assert_close(tokenizer.encode(images), tokenizer.fusion(layers).latent)
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


@torch.no_grad()
def as_diffusers(
    kind: str, name: str, width: int, depth: int, patch: int, grid: int, decoder: DecoderConfig, folder: Path
) -> tuple[float, float]:
    """The relative errors of the normalised latent and of the reconstruction, with the same random weights."""
    diffusers = pytest.importorskip("diffusers")
    from transformers_vits import FAMILIES, randomise, relative_error, save_official

    family = replace(FAMILIES["mae" if kind == "mae" else "dinov2 with registers"], name=name)
    generator = torch.Generator().manual_seed(1)
    model = diffusers.AutoencoderRAE(
        encoder_type=kind, encoder_hidden_size=width, encoder_num_hidden_layers=depth, encoder_patch_size=patch,
        encoder_input_size=grid * patch, decoder_hidden_size=decoder.width, decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads, decoder_intermediate_size=decoder.mlp_dim,
        latents_mean=torch.randn(width, grid, grid, generator=generator),
        latents_std=torch.rand(width, grid, grid, generator=generator) + 0.5,
    )  # fmt: skip
    randomise(model)
    save_official(family, model.encoder, folder / "encoder.safetensors")
    model.save_pretrained(folder / "released")
    path, size = str(folder / "encoder.safetensors"), grid * patch
    encoder_config = EncoderConfig(name=name, weights="file", path=path, input_size=size, resize="plain")
    config = TrialConfig(
        images=ImagesConfig(size=16 * grid),
        encoder=encoder_config,
        fusion=FusionConfig(variant="last"),
        decoder=decoder,
    )
    tokenizer = build_tokenizer(config, load_encoder(encoder_config, folder)).eval()
    released = read_released(folder / "released")
    tokenizer.decoder.load_state_dict(released.state_for(tokenizer.decoder, tokenizer.encoder))
    images = torch.rand(1, 3, 16 * grid, 16 * grid, generator=generator)
    theirs = model.encode(images).latent
    plain = tokenizer.encode(images)
    assert released.latent_mean is not None and released.latent_std is not None
    ours = plain.transpose(1, 2).unflatten(2, (grid, grid))
    ours = (ours - released.latent_mean) / (released.latent_std + 1e-5)
    return relative_error(ours, theirs), relative_error(tokenizer.decode(plain), model.decode(theirs).sample)


@pytest.mark.parametrize(
    ("kind", "name", "width", "patch"),
    [("dinov2", "vit_small_patch14_reg4_dinov2", 384, 14), ("mae", "vit_base_patch16_224.mae", 768, 16)],
)
def test_a_tokenizer_equals_diffusers_from_pixels_to_pixels(
    kind: str, name: str, width: int, patch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 16 x 16 tokens, as diffusers scales its decoder's positions to that grid and RAE does not."""
    create: Any = timm.create_model
    monkeypatch.setattr(timm, "create_model", partial(create, depth=3))
    errors = as_diffusers(kind, name, width, 3, patch, 16, DECODERS["small"], tmp_path)
    print(f"{kind}: latent {errors[0]:.1e}, reconstruction {errors[1]:.1e}")
    assert max(errors) < 1e-5


@pytest.mark.slow
def test_the_published_sizes_equal_diffusers_from_pixels_to_pixels(tmp_path: Path) -> None:
    """The register ViT-B at 224 px and decoder B: RAE, which the paper starts from."""
    errors = as_diffusers("dinov2", "vit_base_patch14_reg4_dinov2", 768, 12, 14, 16, DECODERS["B"], tmp_path)
    print(f"published sizes: latent {errors[0]:.1e}, reconstruction {errors[1]:.1e}")
    assert max(errors) < 1e-5

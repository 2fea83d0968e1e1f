"""Encoders against transformers' own classes, family by family, and what cannot be an encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from drorae.config import EncoderConfig
from drorae.errors import UserError
from drorae.models.backbones import SUPPORTED, build_vit, mlp_width
from drorae.models.encoder import Encoder, load_encoder

pytest.importorskip("transformers")
from transformers_vits import DEPTH, FAMILIES, Family, block_outputs, randomise, relative_error, save_official


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models with three blocks."""
    create: Any = timm.create_model
    monkeypatch.setattr(timm, "create_model", partial(create, depth=DEPTH))


def loaded(family: Family, model: torch.nn.Module, size: int, folder: Path, **fields: Any) -> Encoder:
    path = folder / "weights.safetensors"
    save_official(family, model, path)
    config = EncoderConfig(name=family.name, weights="file", path=str(path), input_size=size, **fields)
    return load_encoder(config, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_block_s_output_is_transformers_own(name: str, shallow: None, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = randomise(family.model())
    for size in family.sizes:
        encoder = loaded(family, model, size, tmp_path)
        images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        ours = encoder(images)
        theirs = block_outputs(family, model, (images - encoder.mean) / encoder.std)
        errors = [relative_error(ours.layers[:, at], theirs[:, at]) for at in range(DEPTH)]
        print(f"{name} at {size} px: {max(errors):.1e}")
        assert max(errors) < 1e-5, errors
        expected = torch.nn.functional.layer_norm(theirs[:, -1], theirs.shape[-1:], eps=encoder.norm.eps)
        assert relative_error(ours.base, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_pe_core_tiny_patch16_384", "vit_small_plus_patch16_dinov3"]
)
def test_other_models_of_eva_give_timm_s_own_features(name: str, shallow: None) -> None:
    """Rotary positions beside a table, a norm before the blocks, a gated MLP."""
    size = 56 if "14" in name else 64
    encoder = load_encoder(EncoderConfig(name=name, weights="random", input_size=size), "unused")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    theirs, found = encoder.vit.forward_intermediates((images - encoder.mean) / encoder.std, output_fmt="NLC")
    ours = encoder(images)
    assert (
        torch.equal(ours.layers, torch.stack(found, dim=1))
        and ours.layers.shape[2] == (size // encoder.patch_size) ** 2
    )
    if not isinstance(encoder.vit.norm, torch.nn.Identity):
        affine = encoder.vit.norm(ours.layers[:, -1])
        assert torch.equal(affine, theirs[:, encoder.vit.num_prefix_tokens :])


def test_statistics_are_the_model_s_own() -> None:
    names = {
        "vit_base_patch16_siglip_256.v2_webli": 0.5,
        "vit_base_patch16_224.mae": 0.485,
        "vit_tiny_patch16_dinov3_qkvb": 0.485,
    }
    for name, mean in names.items():
        with torch.device("meta"):
            assert build_vit(name).pretrained_cfg["mean"][0] == mean


def test_weights_come_with_or_without_what_stands_behind_the_blocks(shallow: None, tmp_path: Path) -> None:
    """A model that pools the tokens has a norm of its own for that, which no latent goes through."""
    name = "vit_medium_patch16_gap_240"
    state = build_vit(name, img_size=240).state_dict()
    save_file({**state, "head.weight": torch.zeros(2, 512)}, tmp_path / "weights.safetensors")
    config = EncoderConfig(name=name, weights="file", path=str(tmp_path / "weights.safetensors"), input_size=240)
    encoder = load_encoder(config, tmp_path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in encoder.vit.state_dict().items())


@pytest.mark.parametrize(
    "name", ["resnet18", "beit_base_patch16_224", "naflexvit_base_patch16_siglip", "swin_tiny_patch4_window7_224"]
)
def test_what_cannot_be_an_encoder_is_refused_with_what_can(name: str) -> None:
    with pytest.raises(UserError, match="is a ") as caught, torch.device("meta"):
        build_vit(name)
    assert SUPPORTED in str(caught.value) and "\n" not in str(caught.value)


def test_a_gated_mlp_counts_as_a_wider_one() -> None:
    with torch.device("meta"):
        assert mlp_width(build_vit("vit_tiny_patch16_224")) == 4 * 192
        gated = build_vit("vit_small_plus_patch16_dinov3")
    assert mlp_width(gated) == 1.5 * gated.blocks[0].mlp.fc1_g.out_features

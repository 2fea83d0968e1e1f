"""RAE's released decoders in drorae's: parity with diffusers' own class, both layouts, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drorae.config import DECODERS, DecoderConfig
from drorae.errors import UserError
from drorae.models.decoder import Decoder
from drorae.models.rae_decoder import ReleasedDecoder, convert, read_released

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

WIDTH = 768
IMAGENET = SimpleNamespace(
    mean=torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), std=torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
)


def randomise(model: Any) -> Any:
    """Random weights in place of all: slices of one long random vector, as drawing 400 million takes its time."""
    period = 5_000_011  # more than any tensor has
    numbers = torch.empty(period).uniform_(-0.06, 0.06, generator=torch.Generator().manual_seed(0)).repeat(2)
    start = 0
    with torch.no_grad():
        for tensor in [*model.parameters(), model.encoder_mean, model.encoder_std]:
            tensor.copy_(numbers[start : start + tensor.numel()].view_as(tensor))
            start = (start + 1_234_577) % period
        for module in model.decoder.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.add_(1)
        model.encoder_std.abs_().add_(0.2)
    return model.eval()


def arguments(name: str, grid: int) -> dict[str, Any]:
    """An AutoencoderRAE with a decoder of a released size and an encoder of one block."""
    size = DECODERS[name]
    return {
        "encoder_hidden_size": WIDTH, "encoder_num_hidden_layers": 1, "encoder_input_size": 14 * grid,
        "decoder_hidden_size": size.width, "decoder_num_hidden_layers": size.depth,
        "decoder_num_attention_heads": size.heads, "decoder_intermediate_size": size.mlp_dim,
    }  # fmt: skip


def drorae_decoder(name: str, grid: int, released: ReleasedDecoder) -> Decoder:
    # Without memory of its own where the file brings every tensor.
    with torch.device("meta" if "positions" in released.state and "mean" in released.state else "cpu"):
        decoder = Decoder(DECODERS[name], WIDTH, grid, 16 * grid)
    decoder.load_state_dict(released.state_for(decoder, IMAGENET), assign=True)
    return decoder.eval()


def original_layout(model: Any) -> dict[str, torch.Tensor]:
    """The decoder's tensors as RAE's repository names them (its src/stage1/decoders/decoder.py)."""
    renamed = {"decoder_pos_embed": model.decoder.decoder_pos_embed}
    for name, tensor in model.decoder.state_dict().items():
        for theirs, original in (
            ("attention.to_q.", "attention.attention.query."),
            ("attention.to_k.", "attention.attention.key."),
            ("attention.to_v.", "attention.attention.value."),
            ("attention.to_out.0.", "attention.output.dense."),
        ):
            name = name.replace(theirs, original)
        renamed[name] = tensor
    return renamed


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The larger of the errors in the Euclidean and in the maximum norm, each relative to the reference's."""
    difference = ours - theirs
    return max(float(difference.norm() / theirs.norm()), float(difference.abs().max() / theirs.abs().max()))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["L", "XL"])
def test_large_decoders_equal_diffusers(name: str) -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderRAE(**arguments(name, grid=2))
    model = randomise(model.to_empty(device="cpu"))
    model.decoder.decoder_pos_embed.normal_()
    model._latents_mean.zero_()
    model._latents_std.fill_(1 - 1e-5)  # the class adds 1e-5
    state = convert(original_layout(model), "rae", name)
    state |= {"mean": model.encoder_mean, "std": model.encoder_std}
    decoder = drorae_decoder(name, 2, ReleasedDecoder(Path(name), "rae", state, "", DECODERS[name].heads, 2))
    z = torch.randn(2, WIDTH, 2, 2, generator=torch.Generator().manual_seed(1))
    theirs = model.decode(z).sample
    assert relative_error(decoder(z.flatten(2).transpose(1, 2)), theirs) < 1e-5


@pytest.fixture(scope="module")
def base() -> Any:
    """ViT-B at 224 px with statistics of its latents."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(WIDTH, 16, 16, generator=generator)
    std = torch.rand(WIDTH, 16, 16, generator=generator) + 0.5
    model = diffusers.AutoencoderRAE(**arguments("B", 16), latents_mean=mean, latents_std=std, noise_tau=0.8)
    return randomise(model)


@pytest.fixture(scope="module")
def latent() -> torch.Tensor:
    """A normalised latent, as diffusers' class decodes it."""
    return torch.randn(1, WIDTH, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def painted(base: Any, latent: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return base.decode(latent).sample


@pytest.mark.slow
@torch.no_grad()
def test_a_diffusers_folder_equals_diffusers(
    base: Any, latent: torch.Tensor, painted: torch.Tensor, tmp_path: Path
) -> None:
    base.save_pretrained(tmp_path)
    released = read_released(tmp_path)
    assert released.layout == "diffusers" and released.heads == 12 and released.noise_tau == 0.8
    assert released.latent_mean is not None and released.latent_std is not None
    plain = latent * (released.latent_std + 1e-5) + released.latent_mean
    ours = drorae_decoder("B", 16, released)(plain.flatten(2).transpose(1, 2))
    assert relative_error(ours, painted) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_an_original_file_equals_diffusers(
    base: Any, latent: torch.Tensor, painted: torch.Tensor, tmp_path: Path
) -> None:
    """The file has no statistics: those of the latent are undone here, those of the image are the encoder's."""
    torch.save(original_layout(base), tmp_path / "model.pt")
    released = read_released(tmp_path / "model.pt")
    assert released.layout == "rae" and released.heads == 12 and released.latent_mean is None
    plain = latent * (base._latents_std + 1e-5) + base._latents_mean
    ours = drorae_decoder("B", 16, released)(plain.flatten(2).transpose(1, 2))
    theirs = (painted - base.encoder_mean) / base.encoder_std * IMAGENET.std + IMAGENET.mean
    assert relative_error(ours, theirs) < 1e-5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy decoder (2 blocks of width 32) in the original layout."""
    model = diffusers.AutoencoderRAE(
        encoder_hidden_size=64, encoder_num_hidden_layers=1, encoder_input_size=28, decoder_hidden_size=32,
        decoder_num_hidden_layers=2, decoder_num_attention_heads=4, decoder_intermediate_size=48,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("small") / "decoder.pt"
    torch.save(original_layout(model), path)
    return path


@pytest.mark.parametrize("side", [3, 6, 16, 20])
@torch.no_grad()
def test_a_diffusers_folder_equals_diffusers_at_any_grid(tmp_path: Path, side: int) -> None:
    """As a folder that says its grid, and as its bare weights file."""
    model = diffusers.AutoencoderRAE(
        encoder_hidden_size=64, encoder_num_hidden_layers=1, encoder_input_size=14 * side, decoder_hidden_size=32,
        decoder_num_hidden_layers=2, decoder_num_attention_heads=4, decoder_intermediate_size=48, patch_size=4,
        image_size=4 * side,
    )  # fmt: skip
    randomise(model).save_pretrained(tmp_path)
    latent = torch.randn(2, 64, side, side, generator=torch.Generator().manual_seed(1))
    theirs = model.decode(latent).sample
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        decoder = Decoder(DecoderConfig(32, 2, 4, 48), 64, side, 4 * side).eval()
        decoder.load_state_dict(read_released(path).state_for(decoder, IMAGENET))
        assert relative_error(decoder(latent.flatten(2).transpose(1, 2)), theirs) < 1e-5


def as_checkpoint(decoder: Path, path: Path, beside: str) -> Path:
    """A checkpoint of stage-1 training: the decoder with an encoder whose tensors are named `beside`."""
    tensors = {f"decoder.{name}": tensor for name, tensor in torch.load(decoder, weights_only=True).items()}
    torch.save({"model": {}, "ema": tensors | {beside: torch.zeros(3)}, "step": 7}, path)
    return path


@pytest.mark.parametrize(
    ("beside", "right", "wrong"),
    [
        ("encoder.encoder.embeddings.cls_token", ("imagenet", "encoder"), ("none",)),  # RAE's Dinov2withNorm
        ("encoder.model.blocks.0.attn.qkv.weight", ("none",), ("imagenet", "encoder")),  # RAEv2's DINOv2 and DINOv3
        ("encoder.model.encoder.layers.0.mlp.fc1.weight", ("imagenet", "encoder", "none"), ()),  # SigLIP, in both
    ],
)
def test_a_checkpoint_that_tells_what_it_paints_refuses_another_output(
    small: Path, tmp_path: Path, beside: str, right: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    released = read_released(as_checkpoint(small, tmp_path / "ep-last.pt", beside))
    for output in right + wrong:
        decoder = Decoder(DecoderConfig(32, 2, 4, 48, output=output), 64, 2, 32)  # type: ignore[arg-type]
        if output in wrong:
            with pytest.raises(UserError, match=f"^decoder.output: {output} .*; use decoder.output={right[-1]}$"):
                released.state_for(decoder, IMAGENET)
        else:
            decoder.load_state_dict(released.state_for(decoder, IMAGENET))


@torch.no_grad()
def test_raev2_s_decoder_paints_its_logits(small: Path) -> None:
    """Its file is RAE's, its pixels are what the last layer gives (its src/stage1/rae.py, decode)."""
    plain, denormalised = (
        Decoder(DecoderConfig(32, 2, 4, 48, output=output), 64, 2, 32).eval() for output in ("none", "encoder")
    )
    for decoder in (plain, denormalised):
        decoder.load_state_dict(read_released(small).state_for(decoder, IMAGENET))
    latent = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain.mean, torch.zeros(1, 3, 1, 1)) and torch.equal(plain.std, torch.ones(1, 3, 1, 1))
    assert torch.allclose(plain(latent) * IMAGENET.std + IMAGENET.mean, denormalised(latent), atol=1e-6)


def test_diffusers_statistics_are_not_dropped_for_raw_pixels(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path)
    with torch.device("meta"):
        decoder = Decoder(replace(DECODERS["B"], output="none"), WIDTH, 16, 256)
    with pytest.raises(UserError, match="^decoder.output: none is not how .* use decoder.output=encoder$"):
        read_released(tmp_path).state_for(decoder, IMAGENET)


def test_a_training_checkpoint_gives_its_averaged_weights(small: Path, tmp_path: Path) -> None:
    averaged = {f"module.decoder.{name}": tensor for name, tensor in torch.load(small, weights_only=True).items()}
    averaged["module.encoder.weight"] = torch.zeros(3)
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    torch.save({"model": raw, "ema": averaged, "step": 7}, tmp_path / "ep-last.pt")
    plain, found = read_released(small).state, read_released(tmp_path / "ep-last.pt").state
    assert plain.keys() == found.keys() and all(torch.equal(plain[name], found[name]) for name in plain)


def test_wrong_sizes_are_named_with_the_fields_to_set(small: Path) -> None:
    decoder = Decoder(DECODERS["tiny"], 384, 4, 32)
    with pytest.raises(UserError) as error:
        read_released(small).state_for(decoder, IMAGENET)
    for text in ("decoder.width=32 (now 128)", "decoder.mlp_dim=48 (now 512)", "images.size=32", "width=64 (now 384)"):
        assert (text in str(error.value)) is (text != "images.size=32")
    assert "decoder.depth" not in str(error.value) and "\n" not in str(error.value)


def test_missing_and_unexpected_keys_are_named(small: Path, tmp_path: Path) -> None:
    tensors = torch.load(small, weights_only=True)
    del tensors["trainable_cls_token"]
    torch.save(tensors, tmp_path / "no_class_token.pt")
    assert not read_released(tmp_path / "no_class_token.pt").state["class_token"].any()
    tensors["mask_token"] = tensors.pop("decoder_norm.bias")
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"lacks decoder_norm\.bias and has mask_token; expected"):
        read_released(tmp_path / "other.pt")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"decoder_norm.bias": Harmful()}, "harmful.pt")
    with pytest.raises(UserError, match="plain weights"):
        read_released("harmful.pt")
    assert not (tmp_path / "harmed").exists()


def test_folders_of_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_released(tmp_path / "nowhere")
    with pytest.raises(UserError, match="diffusion_pytorch_model"):
        read_released(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(UserError, match="AutoencoderKL; expected"):
        read_released(tmp_path)

"""A trial on a released decoder, and its tokenizer exported, loaded and used as a diffusion trainer would."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import at_the_end, tiny_config, tiny_images

from drorae.commands.main import main
from drorae.config import (
    DecoderConfig,
    EvaluationConfig,
    FusionConfig,
    ImagesConfig,
    ObjectiveConfig,
    PhaseConfig,
    Runtime,
    TrialConfig,
    override,
)
from drorae.data.pixels import as_images, to_uint8
from drorae.diagnostics.latents import as_tokens, latent_statistics
from drorae.errors import Notice, UserError
from drorae.export.tokenizer import PretrainedTokenizer, export_trial
from drorae.metrics.evaluate import evaluate
from drorae.models.weights import file_sha256
from drorae.trial.reload import load_trained
from drorae.trial.result import read_result
from drorae.trial.run import run_trial
from drorae.trial.shared import Workshop, open_workshop

DECODER = DecoderConfig(width=64, depth=2, heads=4, mlp_dim=96)


def write_release(path: Path) -> None:
    """A decoder of DECODER's size for 4 x 4 tokens of width 384 and 32 px, in the layout of RAE's repository."""
    generator = torch.Generator().manual_seed(0)
    w, m = DECODER.width, DECODER.mlp_dim
    shapes = {
        "decoder_pos_embed": (1, 17, w), "trainable_cls_token": (1, 1, w), "decoder_embed": (w, 384),
        "decoder_norm": (w,), "decoder_pred": (8 * 8 * 3, w),
    }  # fmt: skip
    for index in range(DECODER.depth):
        block = f"decoder_layers.{index}"
        shapes |= {f"{block}.attention.attention.{name}": (w, w) for name in ("query", "key", "value")}
        shapes |= {f"{block}.attention.output.dense": (w, w), f"{block}.intermediate.dense": (m, w)}
        shapes |= {f"{block}.output.dense": (w, m)}
        shapes |= {f"{block}.layernorm_before": (w,), f"{block}.layernorm_after": (w,)}
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator) * 0.05
        if len(shape) == 3:
            tensors[name] = tensor
        else:
            tensors[f"{name}.weight"] = tensor + 1 if len(shape) == 1 else tensor
            tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.05
    torch.save(tensors, path)


@pytest.fixture(scope="module")
def runtime(cache_dir: Path) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(cache_dir), log_steps=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    folder = tmp_path_factory.mktemp("private")
    generator = np.random.default_rng(0)
    smooth = np.kron(generator.integers(0, 255, (64, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    np.savez(folder / "images.npz", train=smooth[:32], val=smooth[32:])
    write_release(folder / "model.pt")
    phase = PhaseConfig(epochs=2, batch_size=16, warmup_steps=1, lr=2e-3)
    return TrialConfig(
        images=ImagesConfig(source="npz", path=str(folder / "images.npz")),
        fusion=FusionConfig(expert_hidden_dim=8),
        decoder=dataclasses.replace(DECODER, weights=str(folder / "model.pt")),
        objective=ObjectiveConfig(perceptual="none"),
        phase1=phase,
        phase2=dataclasses.replace(phase, ema_decay=0.9),
        phase3=phase,
        evaluation=EvaluationConfig(extractors=("dinov2",)),
    )


@pytest.fixture(scope="module")
def phases() -> set[str]:
    """Names of the phases that the trial reported."""
    return set()


@pytest.fixture(scope="module")
def trial(config: TrialConfig, runtime: Runtime, phases: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trial")
    run_trial(config, lambda row: phases.add(str(row["phase"])), directory=directory, runtime=runtime)
    return directory


@pytest.fixture(scope="module")
def workshop(config: TrialConfig, runtime: Runtime, trial: Path) -> Workshop:
    return open_workshop(config, runtime)


@pytest.fixture(scope="module")
def folder(trial: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trial's tokenizer, written by the command, without its encoder."""
    path = tmp_path_factory.mktemp("exports") / "tokenizer"
    arguments = ["--cache-dir", runtime.cache_dir, "--device", "cpu", "--threads", "1"]
    assert main(["export", str(trial), str(path), "--check", *arguments]) == 0
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> PretrainedTokenizer:
    return PretrainedTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pixels(workshop: Workshop) -> torch.Tensor:
    return workshop.val.batch(np.arange(len(workshop.val)), 0, 1).pixels


@pytest.mark.slow
def test_a_released_decoder_takes_the_place_of_phase_1(
    config: TrialConfig, runtime: Runtime, trial: Path, phases: set[str], workshop: Workshop, tmp_path: Path
) -> None:
    result = read_result(trial)
    assert phases == {"prepare", "phase2", "phase3", "evaluation", "inspection"}
    assert result is not None and result.baseline["psnr"] > 0
    source = Path(config.decoder.weights)
    assert result.provenance["fingerprint.released_decoder"] == file_sha256(source)
    released = torch.load(source, weights_only=True)
    assert torch.equal(workshop.decoder["head.weight"], released["decoder_pred.weight"])
    # What is kept for the decoder goes by its contents, not by its path.
    shutil.copy(source, tmp_path / "copy.pt")
    copied = open_workshop(override(config, "decoder.weights", str(tmp_path / "copy.pt")), runtime)
    assert copied.fingerprints == workshop.fingerprints
    released["decoder_pred.bias"] += 1
    torch.save(released, tmp_path / "other.pt")
    other = open_workshop(override(config, "decoder.weights", str(tmp_path / "other.pt")), runtime)
    assert other.fingerprints["phase1_decoder"] != workshop.fingerprints["phase1_decoder"]
    assert other.baseline != workshop.baseline == copied.baseline


def test_a_decoder_loaded_with_the_wrong_output_is_noticed(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    """One that paints 0 everywhere: grey where it is de-normalised, black where it is not."""
    released = torch.load(config.decoder.weights, weights_only=True)
    released |= {name: torch.zeros_like(released[name]) for name in ("decoder_pred.weight", "decoder_pred.bias")}
    torch.save(released, tmp_path / "decoder.pt")
    right = override(config, "decoder.weights", str(tmp_path / "decoder.pt"))
    with pytest.warns(Notice, match=r"decoder\.pt: decoder\.output=encoder fits it far better than none; set it so$"):
        wrong = open_workshop(override(right, "decoder.output", "none"), runtime)
    assert "far better than none" in wrong.notes["decoder_output"]
    assert "decoder_output" not in open_workshop(right, runtime).notes


@pytest.mark.slow
def test_a_loaded_tokenizer_reproduces_its_metrics(
    trial: Path, workshop: Workshop, loaded: PretrainedTokenizer, pixels: torch.Tensor
) -> None:
    """To the bit: by the trial's own route from cached features, and from the images."""
    result = read_result(trial)
    assert result is not None
    assert workshop.evaluate(loaded.tokenizer).metrics == at_the_end(result.metrics)
    with torch.no_grad():
        painted = to_uint8(loaded(as_images(pixels)))
    assert evaluate([(painted, pixels)], workshop.extractors).metrics == at_the_end(result.metrics)
    assert loaded.config["trial"]["metrics"] == result.metrics


def test_encode_and_decode_are_what_a_diffusion_trainer_needs(
    loaded: PretrainedTokenizer, pixels: torch.Tensor
) -> None:
    images = as_images(pixels)
    latent = loaded.encode(images)
    assert latent.shape == (32, 384, 4, 4) == (32, *loaded.latent_shape)
    with torch.no_grad():
        assert torch.allclose(loaded.decode(latent), loaded(images), atol=1e-4)
        assert torch.equal(loaded.decode(loaded.encode(images, normalised=False), normalised=False), loaded(images))
    latent.requires_grad_()
    loaded.decode(latent).sum().backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training


@pytest.mark.slow
def test_latents_are_those_of_the_training_images_and_of_their_flips(
    config: TrialConfig, trial: Path, runtime: Runtime, workshop: Workshop, loaded: PretrainedTokenizer
) -> None:
    """The images are as large as a crop, so that each is its own centre crop."""
    _, tokenizer = load_trained(trial, runtime)
    train = torch.from_numpy(np.load(config.images.path)["train"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        layers = workshop.encoder(as_images(torch.cat([train, train.flip(3)]))).layers.bfloat16().float()
        latent = tokenizer.fuse(layers).latent.double()
    assert torch.allclose(as_tokens(loaded.latent_mean[None])[0], latent.mean(0).float(), atol=1e-5)
    std = (latent.var(0, correction=0) + 1e-5).sqrt().float()
    assert torch.allclose(as_tokens(loaded.latent_std[None])[0], std, atol=1e-5)
    assert (loaded.config["latent_crops"], loaded.config["latent_images"]) == ("centre", 64)


@pytest.mark.slow
def test_statistics_may_be_of_the_crops_that_the_decoder_trained_on(
    trial: Path, runtime: Runtime, workshop: Workshop, loaded: PretrainedTokenizer, tmp_path: Path
) -> None:
    export_trial(trial, tmp_path / "export", runtime, statistics_crops="training")
    other = PretrainedTokenizer.from_pretrained(tmp_path / "export")
    assert (other.config["latent_crops"], other.config["latent_images"]) == ("training", 32)
    # A batch that does not divide the number of images, and a part of them.
    _, tokenizer = load_trained(trial, runtime)
    again = latent_statistics(tokenizer, workshop.train, batch_size=7)
    assert again.images == 32 and torch.allclose(again.std, other.latent_std, atol=1e-6)
    assert torch.allclose(again.mean, other.latent_mean, atol=1e-6)
    assert not torch.allclose(loaded.latent_mean, other.latent_mean, atol=1e-3)
    assert latent_statistics(tokenizer, workshop.train, images=5).images == 5


@pytest.mark.slow
def test_a_folder_with_its_encoder_needs_nothing_else(
    trial: Path, runtime: Runtime, folder: Path, loaded: PretrainedTokenizer, pixels: torch.Tensor,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = tmp_path / "whole"
    options = ["--embed-encoder", "--json", "--statistics-images", "8", "--cache-dir", runtime.cache_dir]
    assert main(["export", str(trial), str(whole), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["latent_images"] == 16 and report["latent_crops"] == "centre"
    assert report["latent_shape"] == [384, 4, 4] and report["metrics"] == {}
    monkeypatch.setenv("DRORAE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(
        "drorae.export.tokenizer.load_encoder", lambda *arguments: pytest.fail("looked for the encoder")
    )
    other = PretrainedTokenizer.from_pretrained(str(whole))
    images = as_images(pixels)
    assert torch.equal(other.encode(images, normalised=False), loaded.encode(images, normalised=False))
    other.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes()
    assert (folder / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size / 5


def test_a_folder_tells_nothing_of_the_machine(folder: Path, config: TrialConfig, trial: Path) -> None:
    text = (folder / "config.json").read_text() + (folder / "README.md").read_text()
    for path in (Path(config.images.path).parent, trial, folder, Path.home()):
        assert str(path) not in text
    assert "psnr" in (folder / "README.md").read_text()


@pytest.mark.parametrize("exchanged", ["latent_std", "fusion"])
def test_statistics_of_another_tokenizer_s_latents_are_refused(folder: Path, tmp_path: Path, exchanged: str) -> None:
    changed = shutil.copytree(folder, tmp_path / "changed")
    (weights,) = changed.glob("*.safetensors")
    state = load_file(weights)
    state |= {name: tensor * 1.01 for name, tensor in state.items() if name.startswith(exchanged)}
    save_file(state, weights)
    with pytest.raises(UserError, match="statistics of another tokenizer's latents"):
        PretrainedTokenizer.from_pretrained(changed)
    description = json.loads((changed / "config.json").read_text())
    del description["latents"]
    (changed / "config.json").write_text(json.dumps(description))
    PretrainedTokenizer.from_pretrained(changed)


def test_a_trial_of_listed_layers_is_trained_and_exported(runtime: Runtime, tmp_path: Path) -> None:
    """Blocks 3 and 8 of twelve: cached or encoded anew, and out of the folder again."""
    config = tiny_config(
        tiny_images(tmp_path / "images.npz"),
        fusion=FusionConfig(expert_hidden_dim=8, layers=(3, 8)),
        evaluation=EvaluationConfig(extractors=()),
    )
    result = run_trial(config, directory=tmp_path / "cached", runtime=runtime)
    online = dataclasses.replace(runtime, features="online")
    assert run_trial(config, directory=tmp_path / "online", runtime=online).metrics == result.metrics
    assert result.num_layers == 2 and result.status != "diverged"
    exported = export_trial(tmp_path / "cached", tmp_path / "folder", runtime, check=True)
    assert exported.metrics and all(again == trained for trained, again in exported.metrics.values())
    assert PretrainedTokenizer.from_pretrained(tmp_path / "folder").tokenizer.fusion.blocks == (3, 8)


def test_what_does_not_fit_is_named(
    folder: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        PretrainedTokenizer.from_pretrained(tmp_path)
    description = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"encoder_fingerprint": "another"}, "was trained on the encoder another"),
        ({"encoder": {**description["encoder"], "weights": "file"}}, "encoder_path=FILE"),
        ({"decoder": {**description["decoder"], "depth": 1}}, "does not fit the config.json"),
    ):
        shutil.copytree(folder, tmp_path / "changed", dirs_exist_ok=True)
        (tmp_path / "changed" / "config.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(UserError, match=message):
            PretrainedTokenizer.from_pretrained(tmp_path / "changed")
    assert main(["export", str(trial), str(folder)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "no finished trial here" in capsys.readouterr().err

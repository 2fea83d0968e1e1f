"""Trials: reproducible, resumable to the bit, and true to what each phase may change."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from children import forking

from drorae.config import (
    DECODERS,
    EvaluationConfig,
    FusionConfig,
    ImagesConfig,
    ObjectiveConfig,
    PhaseConfig,
    Runtime,
    TrialConfig,
    override,
)
from drorae.errors import UserError
from drorae.machine.needs import EncoderShape, train_flops
from drorae.models.weights import read_state, save_state
from drorae.trial.reload import load_trained, reevaluate
from drorae.trial.result import read_result
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop
from sweeps.folder.table import trial_row


@pytest.fixture(scope="module")
def runtime(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """One cache for the module, with the converted weights of the session's."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "weights").symlink_to(cache_dir / "weights")
    return Runtime(device="cpu", threads=1, cache_dir=str(folder), checkpoint_seconds=1e9, log_steps=3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    generator = np.random.default_rng(0)
    smooth = np.kron(generator.integers(0, 255, (96, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, train=smooth[:64], val=smooth[64:])
    phase = PhaseConfig(epochs=3, batch_size=16, warmup_steps=2, lr=2e-3)
    return TrialConfig(
        images=ImagesConfig(source="npz", path=str(path)),
        fusion=FusionConfig(expert_hidden_dim=8),
        decoder=DECODERS["tiny"],
        objective=ObjectiveConfig(perceptual_size=32),
        phase1=dataclasses.replace(phase, latent_noise=0.2),
        phase2=dataclasses.replace(phase, ema_decay=0.9, latent_noise=0.1),
        evaluation=EvaluationConfig(extractors=("dinov2",)),
    )


@pytest.fixture(scope="module")
def finished(config: TrialConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trial")
    run_trial(config, directory=directory, runtime=runtime)
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return read_state(directory / "fusion.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_same_config_and_seed_give_identical_metrics(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    again = run_trial(config, directory=tmp_path, runtime=runtime)
    first = read_result(finished)
    assert first is not None and again.metrics == first.metrics and same(weights(finished), weights(tmp_path))
    other = run_trial(dataclasses.replace(config, seed=1), directory=tmp_path / "seed1", runtime=runtime)
    assert other.metrics != first.metrics
    assert other.baseline == first.baseline


def test_result_says_what_was_measured(config: TrialConfig, finished: Path) -> None:
    result = read_result(finished)
    assert result is not None
    assert {"psnr", "ssim", "l1", "rfd_dinov2", "rfd_dinov2_se", "kd_dinov2", "eval_images"} <= set(result.metrics)
    assert 0 < result.metrics["rfd_dinov2_se"] < result.metrics["rfd_dinov2"]
    assert result.metrics["eval_images"] == result.eval_images == 32
    assert result.fusion_params == result.fusion_params_paper == 12 * (2 * 384 * 8 + 8 + 384) + 384 * 144 + 12
    assert result.train_seconds > 0 and result.device_seconds > 0
    assert result.train_flops == train_flops(config, EncoderShape(12, 384, 14), 64, result.fusion_params) > 0
    assert {"git_commit", "version.torch", "fingerprint.encoder", "fingerprint.images_val"} <= set(result.provenance)
    per_image = np.load(finished / "per_image.npz")
    assert per_image["psnr"].shape == (32,)
    assert np.isclose(per_image["psnr"].mean(), result.metrics["psnr"], rtol=1e-6)
    assert per_image["rfd_dinov2_influence"].shape == (32,)
    assert set(result.gain) == {f"{name}{end}" for name in ("psnr", "ssim", "l1", "rfd_dinov2") for end in ("", "_se")}
    for name, sign in (("psnr", 1), ("l1", -1), ("rfd_dinov2", -1)):
        assert result.gain[name] == sign * (result.metrics[name] - result.baseline[name])
        assert result.gain[f"{name}_se"] > 0
    samples = np.load(finished / "samples.npz")
    assert samples["original"].shape == samples["phase1"].shape == samples["fused"].shape == (16, 32, 32, 3)
    assert samples["routing"].shape == (16, 12, 4, 4)
    rows = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "phase2"] == [3, 6, 9, 12]


def test_beta_zero_and_last_equal_the_baseline_exactly(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    for name, changed in (
        ("beta", override(config, "fusion.beta", 0.0)),
        ("last", override(config, "fusion.variant", "last")),
    ):
        changed = override(changed, "phase2.epochs", 0)
        result = run_trial(changed, directory=tmp_path / name, runtime=runtime)
        assert result.metrics == result.baseline and set(result.gain.values()) == {0.0}
        assert result.status == "finished"


def test_phase_two_leaves_the_decoder_and_encoder_alone(config: TrialConfig, runtime: Runtime, finished: Path) -> None:
    workshop = open_workshop(config, runtime)
    _, tokenizer = load_trained(finished, runtime)
    assert not (finished / "decoder.safetensors").exists()
    assert same(tokenizer.decoder.state_dict(), workshop.decoder)
    assert not same(weights(finished), workshop.tokenizer().fusion.state_dict())


def test_phase_three_trains_the_decoder_only(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    longer = override(config, "phase3.epochs", 2)
    result = run_trial(longer, directory=tmp_path, runtime=runtime)
    first = read_result(finished)
    assert first is not None
    assert same(weights(finished), weights(tmp_path))
    assert not same(read_state(tmp_path / "decoder.safetensors"), open_workshop(config, runtime).decoder)
    assert result.metrics["l1"] < first.metrics["l1"]
    # What phase 2 gave stands beside it, as the trial without phase 3 measured it.
    after_phase_2 = {f"phase2.{name}": value for name, value in first.metrics.items() if name != "eval_images"}
    assert {name: value for name, value in result.metrics.items() if name.startswith("phase2.")} == after_phase_2
    assert not any(name.startswith("phase2.") for name in (*first.metrics, *result.gain))
    result_path = tmp_path / "result.json"
    before = result_path.read_bytes()
    result_path.unlink()
    assert run_trial(longer, directory=tmp_path, runtime=runtime).metrics == json.loads(before)["metrics"]
    row = trial_row(longer, tmp_path)
    assert row["phase2.psnr"] == first.metrics["psnr"] != row["psnr"]
    assert row["train_flops"] == result.train_flops > 1.5 * first.train_flops, "two epochs of phase 3 more"


def _killed_at(config: TrialConfig, runtime: Runtime, directory: Path, phase: str, step: int) -> None:
    torch.set_num_threads(1)

    def report(row: dict[str, float | str]) -> None:
        if row["phase"] == phase and row.get("step") == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run_trial(config, report, directory=directory, runtime=runtime)


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_killed_and_resumed_ends_bit_identical(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path, phase: str
) -> None:
    """Killed -9 right after step 9 of 12 was reported; the checkpoint of step 6 or 9 is what is left."""
    often = dataclasses.replace(runtime, checkpoint_seconds=0.0)
    if phase == "phase1":
        often = dataclasses.replace(often, cache_dir=str(tmp_path / "cache"))
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "weights").symlink_to(Path(runtime.cache_dir) / "weights")
    process = forking().Process(target=_killed_at, args=(config, often, tmp_path / "trial", phase, 9))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.rglob("*.pt"))
    rows: list[dict[str, float | str]] = []
    result = run_trial(config, rows.append, directory=tmp_path / "trial", runtime=often)
    first = read_result(finished)
    assert first is not None and result.metrics == first.metrics
    assert same(weights(finished), weights(tmp_path / "trial"))
    assert [row["step"] for row in rows if row["phase"] == phase] == [3, 6, 9, 12]
    assert not list(tmp_path.rglob("*.pt"))


def test_a_finished_trial_is_not_run_again(config: TrialConfig, runtime: Runtime, finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    rows: list[object] = []
    run_trial(config, rows.append, directory=finished, runtime=runtime)
    assert rows == [] and before == {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_a_folder_of_another_trial_is_refused(config: TrialConfig, runtime: Runtime, finished: Path) -> None:
    with pytest.raises(UserError, match="another config"):
        run_trial(override(config, "fusion.beta", 0.5), directory=finished, runtime=runtime)


def test_reevaluation_reproduces_the_metrics(finished: Path, runtime: Runtime) -> None:
    first = read_result(finished)
    assert first is not None and reevaluate(finished, runtime=runtime) == first.metrics
    other = reevaluate(finished, ["effnet"], runtime=runtime)
    assert "rfd_effnet" in other and "rfd_dinov2" not in other and other["psnr"] == first.metrics["psnr"]


def test_reevaluation_as_published(
    config: TrialConfig, finished: Path, runtime: Runtime, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """RAE's truncation, LPIPS from a file, drawn replicates, and statistics from files of others and our own."""
    with torch.device("meta"):
        layers = torchvision.models.alexnet().features.state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {f"features.{name}": torch.randn(value.shape, generator=generator) for name, value in layers.items()}
    save_state(tmp_path / "alexnet.safetensors", state)
    reevaluate(finished, runtime=runtime, write_references=tmp_path / "own")
    first = read_result(finished)
    assert first is not None
    own = tmp_path / "own" / "rfd_dinov2.npz"
    settings = {
        "quantise": "truncate", "lpips": "alex", "lpips_path": str(tmp_path / "alexnet.safetensors"),
        "bootstrap": 20, "reference": str(own),
    }  # fmt: skip
    found = reevaluate(finished, runtime=runtime, **settings)
    assert not [warning for warning in recwarn if "evaluation.reference" in str(warning.message)]
    assert set(found) == set(first.metrics) | {"lpips_alex", "rfd_dinov2_reference", "rfd_dinov2_se_bootstrap"}
    assert found["rfd_dinov2_reference"] == pytest.approx(found["rfd_dinov2"], rel=1e-6)
    assert found["lpips_alex"] > 0 and found["rfd_dinov2_se_bootstrap"] > 0
    assert found["psnr"] != first.metrics["psnr"] and found["psnr"] == pytest.approx(first.metrics["psnr"], abs=0.1)

    # The same numbers without a word on their crop, as others publish them.
    with np.load(own) as arrays:
        np.savez(tmp_path / "others.npz", mu=arrays["mu"], sigma=arrays["sigma"], metric="rfd_dinov2")
    doubtful = override(config, "evaluation.reference", str(tmp_path / "others.npz"))
    with pytest.warns(UserWarning, match="does not say how its images were cropped.*read rfd_dinov2"):
        result = run_trial(override(doubtful, "phase2.epochs", 0), directory=tmp_path / "trial", runtime=runtime)
    assert "cropped" in result.provenance["note.rfd_dinov2_reference"]
    assert len(result.provenance["fingerprint.rfd_dinov2_reference"]) == 16
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match="statistics for rfid_inception, the config measures rfd_dinov2"):
        reevaluate(finished, runtime=runtime, reference=str(tmp_path / "adm.npz"))


def test_online_encoding_agrees_with_the_cache(
    config: TrialConfig, runtime: Runtime, finished: Path, tmp_path: Path
) -> None:
    online = run_trial(config, directory=tmp_path, runtime=dataclasses.replace(runtime, features="online"))
    first = read_result(finished)
    assert first is not None
    assert online.metrics["psnr"] == pytest.approx(first.metrics["psnr"], abs=0.05)


def test_fresh_crops_need_online_encoding(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images.views"):
        run_trial(override(config, "images.views", 0), directory=tmp_path, runtime=runtime)


def test_divergence_is_a_recorded_state(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    wild = override(override(config, "phase2.lr", 1e30), "phase2.clip_norm", 0.0)
    result = run_trial(wild, directory=tmp_path, runtime=runtime)
    assert result.status == "diverged" and "phase2" in result.reason and result.metrics == {}
    with pytest.raises(UserError, match="diverged"):
        load_trained(tmp_path, runtime)

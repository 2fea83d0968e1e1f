"""Training strategies: other lists of phases than the published one, each reproducible, resumable and reloadable."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_images

from drorae.config import FusionConfig, Runtime, TrialConfig, override
from drorae.errors import UserError
from drorae.export.tokenizer import export_trial
from drorae.models.tokenizer import Tokenizer
from drorae.training.phases import part_of
from drorae.trial.reload import load_trained, reevaluate
from drorae.trial.result import TrialResult, read_result
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop

Whole = Callable[[str], tuple[Path, TrialResult]]
STRATEGIES: dict[str, dict[str, Any]] = {
    "joint": {"phase2.trains": "fusion,decoder"},
    "joint from scratch": {"phase2.trains": "fusion,decoder", "phase2.start": "fresh", "phase1.epochs": 0},
    "joint, then the decoder": {"phase2.trains": "fusion,decoder", "phase3.epochs": 2, "phase3.batch_size": 16},
    "encoder and decoder": {"phase2.trains": "decoder,encoder", "phase2.latent": "base"},
    "all, then the decoder": {"phase2.trains": "fusion,decoder,encoder", "phase3.epochs": 2, "phase3.batch_size": 16},
    "no fusion, jointly": {"phase2.trains": "fusion,decoder", "fusion.variant": "last"},
    "the decoder again": {"phase2.trains": "decoder"},
}


def strategy(config: TrialConfig, name: str) -> TrialConfig:
    for field, value in STRATEGIES[name].items():
        config = override(config, field, value)
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    return tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))


@pytest.fixture(scope="module")
def runtime(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "weights").symlink_to(cache_dir / "weights")
    return Runtime(device="cpu", threads=1, cache_dir=str(folder), checkpoint_seconds=0, log_steps=1)


@pytest.fixture(scope="module")
def whole(config: TrialConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder and result of a strategy's trial that nothing interrupted, run once; to be read only."""
    folder = tmp_path_factory.mktemp("whole")

    def trial(name: str) -> tuple[Path, TrialResult]:
        directory = folder / name
        if not directory.exists():
            run_trial(strategy(config, name), directory=directory, runtime=runtime)
        result = read_result(directory)
        assert result is not None
        return directory, result

    return trial


def state(tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value.clone() for part in ("fusion", "decoder", "encoder")
            for name, value in part_of(tokenizer, part).state_dict().items()}  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_trained_moves_and_the_rest_is_the_same_to_the_bit(
    name: str, config: TrialConfig, runtime: Runtime, whole: Whole
) -> None:
    config = strategy(config, name)
    directory, result = whole(name)
    assert result.status in ("finished", "unconverged") and math.isfinite(result.metrics["psnr"])
    workshop, tokenizer = load_trained(directory, runtime)
    before, after = state(workshop.tokenizer()), state(tokenizer)
    moved = {key.partition(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    weightless = config.fusion.variant == "last"
    assert moved == {part for part in config.trained_parts if part != "fusion" or not weightless}
    # The encoder that other trials of this process read features of is not this trial's.
    frozen = part_of(workshop.baseline_tokenizer(), "encoder").state_dict()
    assert all(torch.equal(value, frozen[key]) for key, value in workshop.encoder.vit.state_dict().items())
    assert reevaluate(directory, runtime=runtime) == {
        key: value for key, value in result.metrics.items() if not key.startswith("phase2.")
    }
    # Without a trained phase 1 there is nothing that fusion could be better than.
    assert bool(result.baseline) == bool(result.gain) == bool(config.phase1.epochs)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("no fusion, jointly",)])
def test_an_interrupted_strategy_ends_as_one_that_was_not(
    name: str, config: TrialConfig, runtime: Runtime, whole: Whole, tmp_path: Path
) -> None:
    config = strategy(config, name)
    _, uncut = whole(name)

    def stop_at(phase: str, step: int) -> Any:
        def report(row: dict[str, float | str]) -> None:
            if (row.get("phase"), row.get("step")) == (phase, step):
                raise KeyboardInterrupt

        return report

    last = "phase3" if config.phase3.epochs else "phase2"
    for phase in dict.fromkeys(("phase2", last)):
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, stop_at(phase, 3), directory=tmp_path / "cut", runtime=runtime)
    again = run_trial(config, directory=tmp_path / "cut", runtime=runtime)
    assert again.metrics == uncut.metrics and again.weights == uncut.weights
    assert not list(tmp_path.rglob("*.pt"))


def test_phase_3_starts_from_the_decoder_of_phase_2_though_its_own_file_is_there(
    config: TrialConfig, runtime: Runtime, whole: Whole, tmp_path: Path
) -> None:
    """The log of phase 3 is lost, its weights are not: it is trained again, and from where it was."""
    config = strategy(config, "joint, then the decoder")
    directory, uncut = whole("joint, then the decoder")
    shutil.copytree(directory, tmp_path / "trial")
    assert {path.name for path in directory.glob("*.safetensors")} == {
        "fusion.safetensors", "decoder.safetensors", "phase2.decoder.safetensors",
    }  # fmt: skip
    for name in ("phase3.json", "result.json"):
        (tmp_path / "trial" / name).unlink()
    assert run_trial(config, directory=tmp_path / "trial", runtime=runtime).weights == uncut.weights


@pytest.mark.parametrize("name", ["joint", "all, then the decoder"])
def test_an_exported_strategy_is_what_was_measured(name: str, runtime: Runtime, whole: Whole, tmp_path: Path) -> None:
    exported = export_trial(whole(name)[0], tmp_path / "export", runtime, check=True)
    assert exported.metrics and all(one == other for one, other in exported.metrics.values())


def test_a_decoder_of_the_mean_of_layers_is_trained_on_it_in_phase_1(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    """RAEv2's: phase 1 alone, on the mean, shared by nothing that has another mean."""
    config = dataclasses.replace(config, fusion=FusionConfig(variant="mean", incremental=False))
    mean = override(config, "phase1.latent", "fused")
    on_mean = run_trial(mean, directory=tmp_path / "mean", runtime=runtime)
    assert on_mean.metrics == on_mean.baseline
    deeper = run_trial(override(mean, "fusion.num_layers", 4), directory=tmp_path / "deeper", runtime=runtime)
    assert deeper.weights["phase1_decoder"] != on_mean.weights["phase1_decoder"]
    on_base = run_trial(config, directory=tmp_path / "base", runtime=runtime)
    assert on_base.metrics != on_base.baseline and on_base.baseline != on_mean.baseline
    workshop = open_workshop(mean, runtime)
    assert workshop.evaluate(workshop.tokenizer()).metrics == on_mean.metrics


def test_strategies_that_share_phase_1_share_the_decoder(whole: Whole) -> None:
    results = [whole(name)[1] for name in ("joint", "encoder and decoder", "the decoder again")]
    assert len({result.weights["phase1_decoder"] for result in results}) == 1
    assert all(result.baseline == results[0].baseline for result in results)


def test_training_another_fusion_than_the_decoder_reads_is_refused(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="phase2.latent"):
        run_trial(override(config, "phase2.latent", "base"), directory=tmp_path, runtime=runtime)

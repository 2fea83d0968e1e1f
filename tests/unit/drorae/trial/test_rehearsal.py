"""A rehearsal counts up to the whole what every step and every image takes, and trains what the trial would."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import psutil
import pytest
from tiny import TINY_PROBE, tiny_config, tiny_images

from drorae.commands.main import main
from drorae.config import PRESETS, PhaseConfig, ProbeConfig, Runtime, TrialConfig, config_hash
from drorae.data.loading import AHEAD
from drorae.training.loop import Row
from drorae.trial.rehearsal import SAMPLES, STEPS, WARM_UP, Images, counted_up, own_bytes, rehearse, shortened


def step(phase: str, number: int) -> Row:
    return {"phase": phase, "step": float(number), "loss": 1.0}


def done(note: str, number: int, total: int) -> Row:
    return {"phase": "prepare", "note": note, "done": float(number), "total": float(total)}


def begun(phase: str, note: str = "") -> Row:
    return {"phase": phase, "note": note}


@pytest.fixture
def config() -> TrialConfig:
    """Phases of 10, 30 and 0 epochs, in batches of 64."""
    config = PRESETS["smoke"]
    return dataclasses.replace(
        config, phase1=PhaseConfig(epochs=10, batch_size=64), phase2=PhaseConfig(epochs=30, batch_size=64)
    )


def test_what_steps_and_images_take_is_counted_up_and_the_rest_is_not(config: TrialConfig) -> None:
    rows = [
        (5.0, done("encoding images", 0, 256)),  # 5 s of loading
        (15.0, done("encoding images", 256, 256)),  # 10 s for 256 of 1024 training images
        (18.0, done("encoding images", 192, 192)),  # 3 s for 192 of 384 validation images
        (18.0, begun("prepare", "measuring the originals")),
        (20.0, begun("prepare", "decoder")),  # 2 s for half of the originals
        (24.0, step("phase1", 1)),  # 1 s of a step's 2 and 2 s of what comes once
        *[(24.0 + 2 * number, step("phase1", 1 + number)) for number in range(1, 8)],
        (38.0, begun("prepare", "measuring the baseline")),
        (45.0, step("phase2", 1)),  # 4 s of the baseline, and a step of 3 s
        *[(45.0 + 3 * number, step("phase2", 1 + number)) for number in range(1, 8)],
        (66.0, begun("evaluation", "measuring 192 images")),
        (70.0, begun("inspection")),
    ]
    found = counted_up(rows, 71.5, Images(256, 192), Images(1024, 384), config, 7)
    assert found.steps == {"phase1": 160, "phase2": 480} and found.memory_bytes == 7
    expected = {
        "images": 4 * 10 + 2 * 3, "evaluation": 2 * (2 + 4 + 4), "phase1": 160 * 2, "phase2": 480 * 3,
        "other": 5 + 2 + 1.5,
    }  # fmt: skip
    assert found.seconds == pytest.approx(expected)
    assert found.hours == pytest.approx(sum(expected.values()) / 3600)


def test_slow_first_steps_and_rows_of_held_out_images_are_no_steps(config: TrialConfig) -> None:
    rows = [(float(at), step("phase2", at)) for at in (10, 30)]
    rows += [(30.0 + number, step("phase2", 30 + number)) for number in range(1, STEPS + 1)]
    rows += [(30.5 + STEPS, step("phase2", 30 + STEPS) | {"held_out.psnr": 20.0})]
    found = counted_up(rows, 30.5 + STEPS, Images(256, 192), Images(256, 192), config, 0)
    assert found.seconds["phase2"] == found.steps["phase2"] * 1.0


def test_a_generator_and_a_probe_are_counted_up_by_what_they_go_through(config: TrialConfig) -> None:
    config = dataclasses.replace(
        config,
        images=dataclasses.replace(config.images, views=2),
        generator=dataclasses.replace(config.generator, epochs=8, batch_size=64),
        probe=ProbeConfig(steps=50, train_images=512, val_images=256),
        evaluation=dataclasses.replace(config.evaluation, extractors=("dinov2",)),
    )
    rows = [
        (0.0, begun("evaluation", "measuring 192 images")),
        (1.0, begun("latents", "fusing latents")),  # 1 s for half of the validation images
        (3.0, done("fusing latents", 256, 256) | {"phase": "latents"}),  # 2 s for a quarter of the training images
        (5.0, step("generator", 1)),  # a step's second, and another of the latents
        *[(5.0 + number, step("generator", 1 + number)) for number in range(1, 8)],
        (12.0, begun("controls", "measuring the controls") | {"done": 0.0, "total": 1344.0}),
        (15.0, begun("controls", "measuring the controls") | {"done": 64.0, "total": 1344.0}),  # 3 s of controls
        (17.0, {"phase": "sampling", "step": 64.0, "total_steps": 128.0}),
        (19.0, {"phase": "sampling", "step": 128.0, "total_steps": 128.0}),  # 4 s for 128 of 1280 samples
        (19.0, begun("measuring", "measuring 128 samples") | {"done": 0.0, "total": 256.0}),
        (20.0, {"phase": "autoguidance_1.5.sampling", "step": 128.0, "total_steps": 128.0}),  # 1 s
        (20.0, begun("probe", "training the probe")),
        (22.5, step("probe", 1)),  # half a second of a step's, 2 for 256 of 512 images
        *[(22.5 + number / 2, step("probe", 1 + number)) for number in range(1, 8)],
        (28.0, begun("inspection")),  # 2 s for 192 of 256 images
    ]
    short, whole = Images(2 * 128, 192, 128), Images(2 * 512, 384, 1280)
    found = counted_up(rows, 29.0, short, whole, config, 0)
    assert found.steps == {"generator": 8 * 8, "probe": 50}
    few, many = (2 * val + 2 * (train + val) + val + n for train, val, n in ((128, 192, 128), (512, 384, 1280)))
    expected = {
        "evaluation": 2 * 1, "generator": 64 * 1, "generation": 4 * 3 + 3 * many / few + 10 * 5,
        "probe": 50 * 0.5 + 2 * 2 + 2 * 256 / 192, "other": 1,
    }  # fmt: skip
    assert found.seconds == pytest.approx(expected)


def test_the_short_trial_has_the_batches_and_networks_of_the_whole(config: TrialConfig) -> None:
    config = dataclasses.replace(
        config, probe=ProbeConfig(steps=9), generator=dataclasses.replace(config.generator, epochs=3),
        phase1=dataclasses.replace(config.phase1, batch_size=512),
    )  # fmt: skip
    short = shortened(config, Runtime(loader_workers=2), Images(10_000, 50))
    assert short.images.train_images == 512 and short.images.val_images == 50
    # Of eight steps an epoch in phase 2, and of one in phase 1.
    steps = WARM_UP + STEPS + AHEAD * 2
    assert short.phase1.epochs == 10 and short.phase2.epochs == math.ceil(steps / 8) and short.phase3.epochs == 0
    # The whole has no more of either.
    assert (short.probe.steps, short.generator.epochs) == (9, 3)
    assert short.generator == dataclasses.replace(config.generator, samples=SAMPLES)
    assert (short.phase1.batch_size, short.fusion, short.decoder) == (512, config.fusion, config.decoder)


@pytest.mark.slow
def test_a_rehearsal_leaves_nothing_and_tells_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tiny_images(tmp_path / "images.npz"))
    generator = dataclasses.replace(config.generator, size="tiny", epochs=2, batch_size=8, samples=16, steps=2)
    config = dataclasses.replace(config, generator=generator, probe=TINY_PROBE)
    (tmp_path / "cache").mkdir()
    found = rehearse(config, Runtime(device="cpu", threads=1, cache_dir=str(tmp_path / "cache")))
    trained = [phase.name for phase in config.phases if phase.settings.epochs]
    assert list(found.steps) == [*trained, "generator", "probe"]
    assert {"images", "evaluation", "generation", "other", *found.steps} == set(found.seconds)
    assert all(seconds > 0 for seconds in found.seconds.values())
    # Python with torch alone takes more than this.
    assert 50e6 < found.memory_bytes < psutil.virtual_memory().total
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if "decoders" in path.parts or "features" in path.parts
    ]
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(dataclasses.asdict(config)))
    words = [
        "train",
        "--config",
        str(settings),
        "--dry-run",
        "--rehearse",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--json",
    ]
    assert main([*words, "--cache-dir", str(tmp_path / "cache")]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["rehearsal"]["steps"] == found.steps and tree["rehearsal"]["hours"] > 0
    assert not (tmp_path / "runs" / f"train-{config_hash(config)}").exists()


def test_memory_that_a_process_maps_is_not_its_own() -> None:
    process = psutil.Process()
    assert 0 < own_bytes(process) <= process.memory_info().rss


def test_a_rehearsal_wants_a_dry_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--preset", "smoke", "--rehearse"]) == 2
    assert "--rehearse: expected --dry-run with it" in capsys.readouterr().err

"""Held-out images are measured and painted while a phase trains, which goes on as if nobody had looked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_config, tiny_images

from drorae.config import FusionConfig, ObjectiveConfig, PhaseConfig, Runtime, TrialConfig
from drorae.diagnostics.latents import painted_batches
from drorae.diagnostics.picture import read_picture
from drorae.errors import Notice
from drorae.models.tokenizer import Tokenizer
from drorae.training import loop
from drorae.training.rows import HELD_OUT_PSNR, is_held_out
from drorae.training.step import Stepper
from drorae.trial import held_out
from drorae.trial.folder import HELD_OUT_PICTURE
from drorae.trial.held_out import HeldOut
from drorae.trial.pack import train_pack
from drorae.trial.result import read_result
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop

Rows = list[dict[str, Any]]
LOOKING = {"evaluate_every": 3, "evaluate_images": 10}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """Four steps a phase; phase 2 keeps an average of the weights, and phase 3 has an adversary."""
    config = tiny_config(tiny_images(tmp_path_factory.mktemp("images") / "images.npz"))
    opposed = dataclasses.replace(config.phase2, disc_start_steps=0, gan_start_steps=1)
    return dataclasses.replace(
        config,
        objective=ObjectiveConfig(perceptual="none", gan_weight=0.5),
        phase1=opposed,
        phase2=dataclasses.replace(opposed, ema_decay=0.5),
        phase3=opposed,
    )


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    cache = str(tmp_path_factory.mktemp("cache"))
    return Runtime(device="cpu", threads=1, cache_dir=cache, log_steps=2, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def plain(config: TrialConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """The trial that nobody looks at, and its rows."""
    rows: Rows = []
    directory = tmp_path_factory.mktemp("plain")
    run_trial(config, rows.append, directory=directory, runtime=runtime)
    return directory, rows


def weights(directory: Path) -> dict[str, bytes]:
    """Every trained number of a trial, by part and name."""
    return {
        f"{path.name} {name}": value.numpy().tobytes()
        for path in sorted(directory.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def seen(rows: Rows) -> list[tuple[str, float, float]]:
    return [(row["phase"], row["step"], row[HELD_OUT_PSNR]) for row in rows if is_held_out(row)]


def losses(rows: Rows) -> list[tuple[str, float, float]]:
    return [(row["phase"], row["step"], row["loss"]) for row in rows if "loss" in row]


def test_every_phase_is_measured_and_trains_as_if_it_were_not(
    config: TrialConfig, runtime: Runtime, plain: tuple[Path, Rows], tmp_path: Path
) -> None:
    """All three phases, from a cache of its own; amid a window of reported steps."""
    rows: Rows = []
    looked = dataclasses.replace(runtime, cache_dir=str(tmp_path / "cache"), **LOOKING)
    run_trial(config, rows.append, directory=tmp_path / "trial", runtime=looked)
    directory, before = plain
    assert weights(tmp_path / "trial") == weights(directory) and losses(rows) == losses(before)
    (there,), (here,) = (Path(folder).glob("decoders/*") for folder in (runtime.cache_dir, looked.cache_dir))
    assert weights(here) == weights(there)
    assert [place[:2] for place in seen(rows)] == [(f"phase{number}", 3.0) for number in (1, 2, 3)]
    for row in filter(is_held_out, rows):
        assert row["held_out.images"] == 10 and 0 < row["held_out.ssim"] < 1 and row["held_out.seconds"] > 0
        assert 5 < row["held_out.psnr"] < 40 and "loss" not in row
    history = [json.loads(line) for line in (tmp_path / "trial" / "history.jsonl").read_text().splitlines()]
    assert seen(history) == seen(rows)[1:]
    assert (here / HELD_OUT_PICTURE.format("phase1")).is_file()
    assert {path.name for path in (tmp_path / "trial").glob("*.png")} == {
        HELD_OUT_PICTURE.format(phase) for phase in ("phase2", "phase3")
    }


def test_a_phase_cut_short_anywhere_has_every_measurement_once(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = dataclasses.replace(runtime, evaluate_every=1, evaluate_images=4)
    whole: Rows = []
    run_trial(config, whole.append, directory=tmp_path / "whole", runtime=looked)
    measured: list[tuple[str, int]] = []
    measure = HeldOut.__call__

    def counted(self: HeldOut, tokenizer: Tokenizer, phase: Any, step: int, painting: bool) -> dict[str, float]:
        measured.append((phase.name, step))
        return measure(self, tokenizer, phase, step, painting)

    monkeypatch.setattr(HeldOut, "__call__", counted)
    for at in ((2, True), (2, False), (3, True), (4, False)):

        def stop(row: dict[str, Any], at: tuple[int, bool] = at) -> None:
            if row["phase"] == "phase2" and (row.get("step"), is_held_out(row)) == at:
                raise KeyboardInterrupt

        directory, rows = tmp_path / f"cut{at}", []
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, stop, directory=directory, runtime=looked)
        measured.clear()
        run_trial(config, rows.append, directory=directory, runtime=looked)
        assert [step for phase, step in measured if phase == "phase2"] == [3, 4], at
        assert seen(rows) == seen(whole) and weights(directory) == weights(tmp_path / "whole")


def test_the_average_is_measured_where_there_is_one_and_all_is_put_back(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    workshop = open_workshop(config, runtime)
    tokenizer = workshop.tokenizer()
    stepper = Stepper(
        tokenizer, config.phases[1], workshop.train, workshop.objective, None,
        seed=0, device=torch.device("cpu"), runtime=runtime,
    )  # fmt: skip
    for step in range(3):
        stepper.take(step)
    average = stepper.average
    assert average is not None
    now = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    kept = {name: value.clone() for name, value in average.average.items()}
    modes = [module.training for module in tokenizer.modules()]
    asked = [parameter.requires_grad for parameter in tokenizer.parameters()]
    generator = torch.get_rng_state()
    with stepper.at_rest() as resting:
        for name, value in stepper.module.named_parameters():
            assert torch.equal(value, kept[name]) and not torch.equal(value, now[f"fusion.{name}"]), name
        assert not any(module.training for module in resting.modules())
        torch.rand(3)
    with pytest.raises(ValueError, match="no"), stepper.at_rest():
        raise ValueError("no")
    assert all(torch.equal(value, now[name]) for name, value in tokenizer.state_dict().items())
    assert all(torch.equal(value, average.average[name]) for name, value in kept.items())
    assert modes == [module.training for module in tokenizer.modules()] and any(modes)
    assert asked == [parameter.requires_grad for parameter in tokenizer.parameters()]
    assert torch.equal(generator, torch.get_rng_state()) and torch.get_num_threads() == 1


def test_an_encoder_that_is_trained_is_measured_as_it_is_by_then(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    phase = dataclasses.replace(config.phase2, trains=("fusion", "decoder", "encoder"), ema_decay=0.5)
    base = dataclasses.replace(config, objective=ObjectiveConfig(perceptual="none"), phase2=phase)
    base = dataclasses.replace(base, phase3=PhaseConfig(epochs=0))
    rows: Rows = []
    for name, every in (("plain", 0), ("seen", 2)):
        looked = dataclasses.replace(runtime, evaluate_every=every)
        result = run_trial(base, rows.append, directory=tmp_path / name, runtime=looked)
    assert weights(tmp_path / "plain") == weights(tmp_path / "seen")
    found = [row for row in rows if row["phase"] == "phase2" and is_held_out(row)]
    assert [row["step"] for row in found] == [2, 4]
    # After the last step, all sixteen images: what the trial's own evaluation finds.
    assert found[-1]["held_out.images"] == 16
    for name in ("psnr", "ssim", "l1"):
        assert found[-1][f"held_out.{name}"] == pytest.approx(result.metrics[name], rel=1e-6)


def test_a_pack_is_measured_trial_by_trial_and_pays_for_none_of_it(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dataclasses.replace(config, objective=ObjectiveConfig(perceptual="none"), phase3=PhaseConfig(epochs=0))
    fusions = {"narrow": FusionConfig(expert_hidden_dim=4), "wide": FusionConfig(expert_hidden_dim=64)}
    trials = {name: dataclasses.replace(base, fusion=fusion) for name, fusion in fusions.items()}
    looked = dataclasses.replace(runtime, **LOOKING)
    train_pack({tmp_path / "plain" / name: trial for name, trial in trials.items()}, runtime=runtime)
    clock = loop.time.perf_counter
    ahead = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock() + ahead[0])
    measure = HeldOut.__call__

    def slowly(self: HeldOut, *arguments: Any) -> dict[str, float]:
        ahead[0] += 1000
        return measure(self, *arguments)

    monkeypatch.setattr(HeldOut, "__call__", slowly)
    heard: Rows = []
    train_pack({tmp_path / "seen" / name: trial for name, trial in trials.items()}, heard.append, runtime=looked)
    assert len(seen(heard)) == 1
    for name, trial in trials.items():
        assert weights(tmp_path / "seen" / name) == weights(tmp_path / "plain" / name)
        rows: Rows = []
        run_trial(trial, rows.append, directory=tmp_path / "seen" / name, runtime=looked)
        (row,) = filter(is_held_out, rows)
        assert row["step"] == 3 and row["held_out.seconds"] > 900
        result = read_result(tmp_path / "seen" / name)
        assert result is not None and 0 < result.train_seconds < 900
        assert (tmp_path / "seen" / name / HELD_OUT_PICTURE.format("phase2")).is_file()


def test_the_images_are_the_same_ones_and_the_picture_shows_the_first_of_them(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    workshop = open_workshop(config, runtime)
    tokenizer, phase = workshop.tokenizer(), config.phases[1]
    small = dataclasses.replace(config.evaluation, batch_size=3)
    looks = [HeldOut(workshop.val, 10, settings, tmp_path) for settings in (config.evaluation, small)]
    items = looks[0].items
    assert items.tolist() == sorted(set(items.tolist())) == looks[1].items.tolist() and len(items) == 10
    assert HeldOut(workshop.val, 99, small, tmp_path).items.tolist() == list(range(16))
    first, second = (look(tokenizer, phase, 7, painting=True) for look in looks)
    assert first == pytest.approx(second, rel=1e-5) and first["held_out.images"] == 10
    ((painted, originals),) = painted_batches(tokenizer, workshop.val, items, 10)
    picture = read_picture(tmp_path / HELD_OUT_PICTURE.format("phase2"), 7)
    assert picture is not None
    pixels, side, gap = np.asarray(picture), 32, 2
    for row, images in enumerate((originals, painted)):
        for column in range(8):
            top, left = row * (side + gap), column * (side + gap)
            found = pixels[top : top + side, left : left + side].astype(int)
            expected = images[column].permute(1, 2, 0).numpy().astype(int)
            # The sum of a product depends on how many images go through it at once.
            assert np.abs(found - expected).max() <= (1 if row else 0)
    assert pixels.shape == (2 * side + gap, 8 * side + 7 * gap, 3)


def test_a_disk_that_takes_no_picture_costs_no_trial(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held_out, "write_picture", full)
    workshop = open_workshop(config, runtime)
    look = HeldOut(workshop.val, 4, config.evaluation, tmp_path)
    with pytest.warns(Notice, match="held_out.phase2.png: not written .*No space left"):
        assert look(workshop.tokenizer(), config.phases[1], 3, painting=True)["held_out.images"] == 4


def test_a_long_phase_paints_few_pictures_and_the_last_one(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """130 steps, measured at every second: 65 times."""
    painted: list[int] = []

    def look(self: HeldOut, tokenizer: Tokenizer, phase: Any, step: int, painting: bool) -> dict[str, float]:
        painted.extend([step] if painting else [])
        return {HELD_OUT_PSNR: 1.0}

    monkeypatch.setattr(HeldOut, "__call__", look)
    long = dataclasses.replace(config.phase2, epochs=65)
    trial = dataclasses.replace(config, objective=ObjectiveConfig(perceptual="none"), phase2=long)
    trial = dataclasses.replace(trial, phase3=PhaseConfig(epochs=0))
    rows: Rows = []
    run_trial(trial, rows.append, directory=tmp_path, runtime=dataclasses.replace(runtime, evaluate_every=2))
    assert [step for _, step, _ in seen([row for row in rows if row["phase"] == "phase2"])] == list(range(2, 131, 2))
    assert painted[-1] == 130 and 10 <= sum(step > 4 for step in painted) <= 20

"""A trial with a generator of its own: among its metrics, and the same however often it was stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import in_processes
from tiny import tiny_config, tiny_images
from tiny_generator import CAPTIONS, captioned_images, label, tiny_runtime
from tiny_text import tiny_text_encoder

from drorae.commands.main import main
from drorae.config import (
    PRESETS,
    EvaluationConfig,
    GenerationConfig,
    PhaseConfig,
    TrialConfig,
    config_hash,
    load_config,
    override,
)
from drorae.errors import UserError
from drorae.generation.drawing import Drawing, draw_latents
from drorae.generation.guidance import Guidance
from drorae.models.weights import read_state
from drorae.training.rows import is_held_out
from drorae.trial import generation as trial_generation
from drorae.trial import samples
from drorae.trial.generated import Generated, measure_samples, read_yardsticks
from drorae.trial.generation import own_run
from drorae.trial.generator import ready_generator
from drorae.trial.result import TrialResult
from drorae.trial.run import run_trial
from drorae.trial.samples import sample
from sweeps.driver.eta import running_trial

GENERATION = GenerationConfig(
    "tiny", epochs=3, batch_size=8, lr=3e-3, samples=16, steps=4, guidance=("none", "autoguidance=1.5")
)


def trial_config(folder: Path, generation: GenerationConfig = GENERATION, classes: int = 4) -> TrialConfig:
    images = label(tiny_images(folder / "images.npz"), classes)
    phase = PhaseConfig(epochs=1, batch_size=16)
    config = tiny_config(images, phase1=phase, phase2=phase, evaluation=EvaluationConfig(("effnet2",), batch_size=6))
    return replace(config, generator=generation)


REPORTED: list[dict[str, Any]] = []
"""Rows of `home`'s trial."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    run_trial(trial_config(folder), REPORTED.append, directory=folder / "trial", runtime=tiny_runtime(folder))
    return folder


def result_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return found


def test_its_metrics_are_those_of_the_same_generator_beside_the_trial(home: Path, tmp_path: Path) -> None:
    metrics = result_of(home / "trial")["metrics"]
    alone = shutil.copytree(home / "trial", tmp_path / "trial")
    shutil.rmtree(alone / "generator")
    config = load_config(alone / "config.json")
    generator = ready_generator(alone, GENERATION.run(config.seed, True), runtime=tiny_runtime(home))
    assert metrics["generator_loss"] == generator.loss
    for prefix, text in (("", "none"), ("autoguidance_1.5.", "autoguidance=1.5")):
        drawing = Drawing(16, steps=4, guidance=Guidance.parse(text))
        folder, sink = sample(generator, drawing)
        found = measure_samples(read_yardsticks(generator, 16), sink, folder)
        assert {name: metrics[prefix + name] for name in found.metrics} == found.metrics
        assert metrics["gfd_effnet2_gaussian"] == found.controls.gaussian.value
        assert metrics["gfd_effnet2_real"] == found.controls.real.value
    assert metrics["gfd_effnet2_images"] == metrics["accuracy_effnet2_images"] == 16 and metrics["psnr"] > 0
    assert metrics["autoguidance_1.5.gfd_effnet2"] != metrics["gfd_effnet2"]
    assert result_of(home / "trial")["provenance"]["generator.learned"]
    pictures = {path.name for path in (home / "trial").glob("generated.*.png")}
    assert pictures == {"generated.none.png", "generated.autoguidance_1.5.png"}


def test_one_that_was_stopped_while_its_generator_trained_ends_with_the_same_result(home: Path, tmp_path: Path) -> None:
    config = trial_config(tmp_path)

    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == "generator" and row.get("step") == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, stop, directory=tmp_path / "trial", runtime=tiny_runtime(home))
    run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(home))
    assert result_of(tmp_path / "trial")["metrics"] == result_of(home / "trial")["metrics"]


def test_its_precision_is_its_training_s_and_images_are_drawn_in_float32(home: Path, tmp_path: Path) -> None:
    generation = replace(GENERATION, precision="bf16", guidance=("none",))
    config = trial_config(tmp_path, generation)
    run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(home))
    run, plain = generation.run(config.seed, True), GENERATION.run(config.seed, True)
    assert (run.training.precision, plain.training.precision) == ("bf16", "fp32")
    losses = [result_of(folder / "trial")["metrics"]["generator_loss"] for folder in (home, tmp_path)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
    # The same generator beside the trial is the trial's, which nothing is trained for again.
    rows: list[dict[str, Any]] = []
    generator = ready_generator(tmp_path / "trial", run, runtime=tiny_runtime(home), report=rows.append)
    assert generator.loss == losses[1] and "generator" not in {row["phase"] for row in rows}
    latents = draw_latents(
        Drawing(4, (0, 1), 2), range(4), generator.statistics.mean.shape, generator.network, None, torch.device("cpu")
    )
    assert latents.dtype == torch.float32 and {value.dtype for value in generator.model.parameters()} == {torch.float32}


def test_images_are_drawn_with_it_where_no_generator_is_described(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = shutil.copytree(home / "trial", tmp_path / "trial")
    (own,) = (trial / "generator").iterdir()
    words = ["generate", str(trial), "--n", "2", "--steps", "2", "--threads", "1", "--device", "cpu", "--json"]
    words += ["--cache-dir", str(home / "cache")]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["generator"] == str(own)
    assert main([*words, "--size", "tiny", "--epochs", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["generator"] != str(own)
    shutil.rmtree(trial / "generator")
    assert own_run(trial) is None and own_run(tmp_path) is None


def test_the_share_that_is_done_grows_with_every_row_and_is_whole_at_the_end(home: Path) -> None:
    config = load_config(home / "trial" / "config.json")
    rows = [row for row in REPORTED if not is_held_out(row)]
    shares = [running_trial(config, row).share for row in rows]
    names = list(dict.fromkeys(row["phase"] for row in rows))
    assert names[names.index("phase2") :] == [
        "phase2", "evaluation", "latents", "generator", "controls", "sampling", "measuring",
        "autoguidance_1.5.sampling", "autoguidance_1.5.measuring", "inspection",
    ]  # fmt: skip
    begun = next(index for index, row in enumerate(rows) if row["phase"] == "phase2" and "total_steps" in row)
    assert set(shares[:begun]) == {None} and all(one <= other for one, other in pairwise(shares[begun:]))  # type: ignore[operator]
    before = [share for share, row in zip(shares[begun:], rows[begun:], strict=True) if row["phase"] != "inspection"]
    assert max(before) < 1 == shares[-1]  # type: ignore[type-var]


def in_one_of_several(folder: Path, config: TrialConfig) -> TrialResult:
    return run_trial(config, directory=folder / "trial", runtime=tiny_runtime(folder))


def test_two_processes_train_one_generator_together(home: Path, tmp_path: Path) -> None:
    config = trial_config(tmp_path, replace(GENERATION, guidance=("none",)))
    found = in_processes(2, tmp_path, in_one_of_several, tmp_path, config)
    assert all(isinstance(one, TrialResult) and one.metrics == found[0].metrics for one in found), found
    alone = result_of(home / "trial")["metrics"]
    assert found[0].metrics["generator_loss"] == pytest.approx(alone["generator_loss"], rel=1e-5)
    weights = [next((folder / "trial" / "generator").glob("*/generator.safetensors")) for folder in (home, tmp_path)]
    one, two = (read_state(path) for path in weights)
    assert one is not None and two is not None
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def drawn_in_one_of_several(folder: Path, cache: Path) -> tuple[list[list[int]], list[tuple[str, float]], TrialResult]:
    """Which images this process draws of a trial whose generator is there, the rows that it reports, the result."""
    drawn: list[list[int]] = []
    rows: list[tuple[str, float]] = []
    draw = samples.draw_latents

    def noted(drawing: Drawing, images: range, *more: Any) -> torch.Tensor:
        drawn.append(list(images))
        return draw(drawing, images, *more)

    def note(row: dict[str, Any]) -> None:
        if str(row["phase"]).endswith("sampling"):
            rows.append((str(row["phase"]), row["step"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "draw_latents", noted)
        # Four of them rather than one.
        patch.setattr(Drawing, "batches", lambda self: [range(start, start + 4) for start in range(0, self.count, 4)])
        result = run_trial(
            load_config(folder / "trial" / "config.json"), note, directory=folder / "trial", runtime=tiny_runtime(cache)
        )
    return drawn, rows, result


def images_of(folder: Path) -> dict[str, bytes]:
    found = (folder / "trial" / "generator").glob("*/samples-*/*.png")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


@pytest.mark.slow
def test_two_processes_draw_the_images_of_one_to_the_last_bit(home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(home / "trial", tmp_path / name / "trial")
        (tmp_path / name / "trial" / "result.json").unlink()
        for folder in (tmp_path / name / "trial" / "generator").glob("*/samples-*"):
            shutil.rmtree(folder)
    drawn, rows, alone = drawn_in_one_of_several(tmp_path / "one", home)
    batches = [[*range(start, start + 4)] for start in range(0, 16, 4)]
    assert drawn == batches * 2 and [step for _, step in rows] == [4.0, 8.0, 12.0, 16.0] * 2
    first, second = in_processes(2, tmp_path / "meet", drawn_in_one_of_several, tmp_path / "two", home)
    assert first[0] == batches[::2] * 2 and second[0] == batches[1::2] * 2
    assert first[1] == [(name, step) for name in ("sampling", "autoguidance_1.5.sampling") for step in (8.0, 16.0)]
    assert first[2].metrics == second[2].metrics == alone.metrics and "gfd_effnet2" in alone.metrics
    assert images_of(tmp_path / "two") == images_of(tmp_path / "one") and len(images_of(tmp_path / "one")) == 2 * 17


def test_a_config_without_one_has_the_hash_that_it_always_had() -> None:
    config = PRESETS["quickstart"]
    assert config_hash(replace(config, generator=GenerationConfig(size="tiny"))) != config_hash(config)
    assert override(config, "generator", "dit_dh_xl").generator.epochs == 80
    assert override(config, "generator", "small").generator.epochs == 20
    with pytest.raises(UserError, match="generator: 'huge' is not known; choose one of"):
        override(config, "generator", "huge")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"guidance": ("internal=1.5",)}, "internal needs a second output"),
        ({"guidance": ("cfg=1.5",), "condition": "none"}, "cfg needs a generator that is told classes"),
        ({"condition": "text"}, "give generator.text_encoder"),
        ({"text_encoder": "clip"}, "clip needs generator.condition=text"),
        ({"guidance": ("none", "none")}, "names one twice"),
        ({"guidance": ()}, "expected one or more"),
        ({"training": "rae"}, "generator.constant_epochs"),
    ],
)
def test_what_does_not_go_together_is_refused_by_the_config(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(PRESETS["smoke"], generator=replace(GENERATION, **changes)).check()


def told_config(folder: Path) -> TrialConfig:
    """A trial whose generator is told captions, of images in as many classes."""
    generation = replace(
        GENERATION, condition="text", text_encoder=str(folder / "clip"), text_tokens=4, guidance=("none", "cfg=2")
    )
    images = captioned_images(folder, len(CAPTIONS))
    return replace(trial_config(folder, generation), images=images)


@pytest.mark.slow
def test_one_that_is_told_captions_draws_those_of_the_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_text_encoder(tmp_path / "clip")
    config, asked = told_config(tmp_path), list[tuple[int, ...]]()

    def noted(*arguments: Any) -> Generated:
        asked.append(arguments[-1])
        return measure_samples(*arguments)

    monkeypatch.setattr(trial_generation, "measure_samples", noted)
    run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(tmp_path))
    result = result_of(tmp_path / "trial")
    # The images lie class by class, and a class's have one caption.
    by_class = sorted(range(16), key=lambda number: number % 4)
    assert asked == [tuple(number % 4 for number in by_class)] * 2
    records = [json.loads(path.read_text()) for path in (tmp_path / "trial").glob("generator/*/samples-*/samples.json")]
    assert [record["prompts"] for record in records] == [[CAPTIONS[number % 4] for number in by_class]] * 2
    metrics = result["metrics"]
    for name in ("accuracy_effnet2", "cfg_2.accuracy_effnet2", "accuracy_effnet2_real", "accuracy_effnet2_gaussian"):
        assert 0 <= metrics[name] <= 1 and metrics[f"{name}_images"] == 16
    assert {f"cfg_2.{name}" for name in metrics if name.startswith("gfd_effnet2_")} >= {"cfg_2.gfd_effnet2_se"}
    # Its text encoder is among what the trial is made from.
    assert result["provenance"]["fingerprint.text_encoder"]
    (tmp_path / "trial" / "result.json").unlink()
    shutil.rmtree(tmp_path / "clip")
    tiny_text_encoder(tmp_path / "clip", seed=1)
    with pytest.raises(UserError, match=r"text_encoder was \w+ and is \w+ now: changed since this trial began"):
        run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(tmp_path))
    tiny_text_encoder(tmp_path / "there")
    moved = override(config, "generator.text_encoder", str(tmp_path / "there"))
    run_trial(moved, directory=tmp_path / "trial", runtime=tiny_runtime(tmp_path))
    assert result_of(tmp_path / "trial")["metrics"] == metrics


def test_captions_that_the_images_lack_are_missed_before_anything_is_trained(tmp_path: Path) -> None:
    config = trial_config(tmp_path, replace(GENERATION, condition="text", text_encoder=str(tmp_path / "clip")))
    with pytest.raises(UserError, match="needs captions, and the images have none"):
        run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(tmp_path))
    assert not (tmp_path / "trial" / "fusion.safetensors").exists()


@pytest.mark.parametrize("changes", [{"condition": "class"}, {"guidance": ("cfg=2",)}])
def test_classes_that_the_images_lack_are_missed_before_anything_is_trained(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = trial_config(tmp_path, replace(GENERATION, **changes), classes=0)
    with pytest.raises(UserError, match="images have none"):
        run_trial(config, directory=tmp_path / "trial", runtime=tiny_runtime(tmp_path))
    assert not (tmp_path / "trial" / "fusion.safetensors").exists()

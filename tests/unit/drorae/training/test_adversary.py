from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from small_discriminator import CPU, TINY, images
from torch import Tensor

from drorae.config import EvaluationConfig, Module, ObjectiveConfig, PhaseConfig, Runtime, TrialConfig
from drorae.data.pixels import as_images, to_uint8
from drorae.errors import Notice
from drorae.losses.augment import augment
from drorae.models.tokenizer import Tokenizer
from drorae.models.weights import read_state
from drorae.training.adversary import Adversary, make_adversary
from drorae.training.loop import train_phase
from drorae.training.step import Stepper
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop


@pytest.mark.slow
def test_the_heads_learn_to_tell_noise_from_smooth() -> None:
    settings = PhaseConfig(epochs=1, disc_start_steps=2, gan_start_steps=4, warmup_steps=0)
    adversary = Adversary(TINY, ObjectiveConfig(gan_weight=0.75), settings, CPU, seed=0)
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4), size=64, mode="bilinear")
    torch.manual_seed(0)
    assert adversary.learn(1, 30, [images(8)], [smooth]) == {}, "before disc_start_steps nothing is learned"
    assert [adversary.speaks(step) for step in (3, 4)] == [False, True]
    losses = [float(adversary.learn(step, 30, [images(8)], [smooth])["disc_loss"]) for step in range(2, 30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    with torch.no_grad():
        real, fake = (adversary.network.eval()(2 * pictures - 1).mean() for pictures in (smooth, images(8, seed=9)))
    assert real > fake


@pytest.mark.slow
@pytest.mark.parametrize("piece", [0, 5])
def test_a_phase_with_an_adversary_moves_the_fusion_alone(config: TrialConfig, runtime: Runtime, piece: int) -> None:
    runtime = dataclasses.replace(runtime, micro_batch=piece)
    objective = ObjectiveConfig(perceptual="none", gan_weight=0.75)
    phase2 = dataclasses.replace(config.phase2, disc_start_steps=1, gan_start_steps=2)
    config = dataclasses.replace(config, objective=objective, phase1=phase2, phase2=phase2)
    workshop = open_workshop(config, runtime)
    tokenizer = workshop.tokenizer()
    adversary = make_adversary(config, phase2, CPU, 0)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    rows: list[dict[str, float | str]] = []
    train_phase(
        tokenizer, config.phases[1], workshop.train, workshop.objective, adversary, seed=0, device=CPU,
        checkpoint=Path(runtime.cache_dir) / "none.pt", runtime=runtime, report=rows.append,
    )  # fmt: skip
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("fusion."), name
    assert ["disc_loss" in row for row in rows] == [False, True, True, True]
    assert ["gan_weight" in row for row in rows] == [False, False, True, True]


def adversarial_trial(config: TrialConfig, **fields: Any) -> TrialConfig:
    """Both learn in each phase, the heads from its second step on, slowly, so that rounding does not grow.

    `fields` are the discriminator's.
    """
    phase = dataclasses.replace(
        config.phase2, epochs=2, batch_size=8, disc_start_steps=1, gan_start_steps=2, lr=1e-5, precision="fp32"
    )
    return dataclasses.replace(
        config, objective=ObjectiveConfig(perceptual="none", gan_weight=0.75),
        discriminator=dataclasses.replace(config.discriminator, lr=1e-5, final_lr=1e-6, **fields),
        evaluation=EvaluationConfig(extractors=()),
        images=dataclasses.replace(config.images, train_images=16), phase1=phase, phase2=phase, phase3=phase,
    )  # fmt: skip


Series = tuple[dict[str, list[float]], dict[str, Tensor]]


def series(config: TrialConfig, runtime: Runtime, folder: Path) -> Series:
    """What a trial with a cache of its own reports of its phases, and the weights it ends with."""
    rows: list[dict[str, float | str]] = []
    own = dataclasses.replace(runtime, cache_dir=str(folder / "cache"))
    run_trial(config, rows.append, directory=folder / "trial", runtime=own)
    names = ("loss", "l1", "gan", "gan_weight", "disc_loss")
    found = {name: [float(row[name]) for row in rows if name in row] for name in names}
    weights = {}
    for part in ("fusion", "decoder"):
        weights |= read_state(folder / "trial" / f"{part}.safetensors")
    return found, weights


def same(one: Series, other: Series) -> None:
    for name, values in one[0].items():
        assert other[0][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
        assert values, name
    for name, weight in one[1].items():
        assert float((weight - other[1][name]).norm() / weight.norm().clamp_min(1e-6)) < 1e-3, name


RAE = {"fakes": "repainted", "augment": "shift_first", "power_iterations": 2, "decay": "phase"}
"""The discriminator as RAE trains it."""


@pytest.fixture(scope="module")
def rae(config: TrialConfig, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A trial with RAE's discriminator on whole batches."""
    return series(adversarial_trial(config, **RAE), runtime, tmp_path_factory.mktemp("rae"))


def in_pieces(trial: TrialConfig, runtime: Runtime, folder: Path) -> Series:
    """8 images in pieces of 3, 3 and 2."""
    return series(trial, dataclasses.replace(runtime, micro_batch=3), folder / "pieces")


@pytest.mark.slow
def test_pieces_of_a_batch_change_nothing_where_there_is_an_adversary(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    """Losses, adaptive weight, discriminator and weights are alike."""
    trial = adversarial_trial(config)
    same(series(trial, runtime, tmp_path / "whole"), in_pieces(trial, runtime, tmp_path))


@pytest.mark.slow
def test_pieces_of_a_batch_change_nothing_for_raes_discriminator(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, rae: Series
) -> None:
    same(rae, in_pieces(adversarial_trial(config, **RAE), runtime, tmp_path))


@pytest.mark.slow
def test_a_discriminator_s_step_is_the_same_again_after_memory_ran_out(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, rae: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Adversary.learn

    def short(self: Adversary, step: int, total: int, painted: Any, *rest: Any) -> dict[str, Tensor]:
        found = learn(self, step, total, painted, *rest) if len(painted[0]) <= 4 else None
        if found is None:
            augment(painted[0])
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(Adversary, "learn", short)
    with pytest.warns(Notice, match="goes on with 4"):
        again = series(adversarial_trial(config, **RAE), runtime, tmp_path / "short")
    same(rae, again)


def rae_phase(
    config: TrialConfig, runtime: Runtime, checkpoint: Path, report: Any, trains: tuple[Module, ...] = ()
) -> tuple[Tokenizer, Adversary]:
    """Phase 2 with RAE's discriminator and hirae's dropout, on a decoder as it is initialised."""
    phase2 = dataclasses.replace(config.phase2, disc_start_steps=1, gan_start_steps=2, trains=trains)
    trial = dataclasses.replace(
        config, objective=ObjectiveConfig(perceptual="none", gan_weight=0.75),
        discriminator=dataclasses.replace(config.discriminator, **RAE),
        fusion=dataclasses.replace(config.fusion, variant="hirae"), phase2=phase2,
        phase1=dataclasses.replace(config.phase1, epochs=0),
    )  # fmt: skip
    workshop = open_workshop(trial, runtime)
    tokenizer, adversary = workshop.tokenizer(), make_adversary(trial, phase2, CPU, 0)
    assert adversary is not None
    train_phase(
        tokenizer, trial.phases[1], workshop.train, workshop.objective, adversary, seed=0, device=CPU,
        checkpoint=checkpoint, runtime=dataclasses.replace(runtime, checkpoint_seconds=0), report=report,
    )  # fmt: skip
    return tokenizer, adversary


@pytest.mark.slow
@pytest.mark.parametrize("trains", [("fusion",), ("fusion", "decoder"), ("fusion", "decoder", "encoder")])
def test_fakes_are_painted_again_by_the_weights_that_a_user_gets(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: tuple[Module, ...]
) -> None:
    """After the update, without latent noise and dropout, in 8 bits: at the last step by the weights of the end.

    A trained encoder is among them, and encodes the crops again.
    """
    shown: list[Tensor] = []
    modes: list[bool] = []
    learn, teach = Adversary.learn, Stepper._teach

    def watched(self: Adversary, step: int, total: int, painted: Any, *rest: Any) -> dict[str, Tensor]:
        shown[:] = [torch.cat(list(painted)), torch.cat(list(rest[0]))]
        return learn(self, step, total, painted, *rest)

    def taught(self: Stepper, *arguments: Any) -> dict[str, Tensor]:
        found = teach(self, *arguments)
        modes.append(self.module.training)
        return found

    monkeypatch.setattr(Adversary, "learn", watched)
    monkeypatch.setattr(Stepper, "_teach", taught)
    assert config.phase2.latent_noise
    tokenizer, _ = rae_phase(config, runtime, tmp_path / "none.pt", lambda row: None, trains)
    assert tokenizer.encodes == ("encoder" in trains)
    fakes, originals = shown
    with torch.no_grad():
        expected = as_images(to_uint8(tokenizer(originals)))
    torch.testing.assert_close(fakes, expected, atol=1.01 / 255, rtol=0)
    assert ((fakes - expected).abs() < 1e-6).float().mean() > 0.99
    assert torch.equal(fakes * 255, (fakes * 255).round())
    assert modes == [True] * len(modes) and modes, "the next step trains again, dropout and all"


@pytest.mark.slow
def test_joint_phases_go_on_with_an_earlier_phase_s_discriminator(
    config: TrialConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fusion and decoder hear phase 1's from their first step on, then the decoder and the encoder hear theirs."""
    trial = adversarial_trial(config, **RAE)
    later = dataclasses.replace(trial.phase2, gan_start_steps=0, disc_start_steps=0)
    trial = dataclasses.replace(
        trial,
        phase2=dataclasses.replace(later, trains=("fusion", "decoder"), disc_from="phase1"),
        phase3=dataclasses.replace(later, trains=("decoder", "encoder"), disc_from="phase2"),
    )
    begun: list[dict[str, Tensor]] = []
    ended: list[Adversary] = []
    make = Adversary.__init__

    def watched(self: Adversary, *arguments: Any) -> None:
        make(self, *arguments)
        begun.append({name: value.clone() for name, value in self.network.state_dict().items()})
        ended.append(self)

    monkeypatch.setattr(Adversary, "__init__", watched)
    own = dataclasses.replace(runtime, cache_dir=str(tmp_path / "cache"))
    rows: list[dict[str, float | str]] = []
    result = run_trial(trial, rows.append, directory=tmp_path / "trial", runtime=own)
    assert len(begun) == 3 and {"fusion", "decoder", "encoder"} <= result.weights.keys()
    for before, after in itertools.pairwise(range(3)):
        for name, value in ended[before].network.state_dict().items():
            assert torch.equal(value, begun[after][name]), f"phase {after + 1}: {name}"
    moved = [
        not torch.equal(first["heads.0.2.bias"], heads["heads.0.2.bias"]) for first, heads in itertools.pairwise(begun)
    ]
    assert all(moved), "each phase trained them"
    assert [row["phase"] for row in rows if row.get("step") == 1 and "gan_weight" in row] == ["phase2", "phase3"]


@pytest.mark.slow
def test_a_phase_with_raes_discriminator_resumes_to_the_bit(
    config: TrialConfig, runtime: Runtime, tmp_path: Path
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    whole = rae_phase(config, runtime, tmp_path / "whole.pt", lambda row: None)
    with pytest.raises(KeyboardInterrupt):
        rae_phase(config, runtime, tmp_path / "cut.pt", stop)
    again = rae_phase(config, runtime, tmp_path / "cut.pt", lambda row: None)
    for one, other in zip((whole[0], whole[1].network), (again[0], again[1].network), strict=True):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(("decay", "last"), [("updates", 1e-2), ("phase", 1.5e-2)])
def test_a_rate_that_decays_over_the_phase_does_not_come_to_its_end(decay: Any, last: float) -> None:
    """From step 14 of 28 on, from 2e-2: half of a cosine over 28 steps, or all of one over 14."""
    settings = PhaseConfig(epochs=1, disc_start_steps=14, gan_start_steps=20, warmup_steps=0)
    config = dataclasses.replace(TINY, decay=decay)
    adversary = Adversary(config, ObjectiveConfig(gan_weight=0.75), settings, CPU, seed=0)
    adversary.learn(27, 28, [images(1)], [images(1, seed=1)])
    assert adversary.optimiser.param_groups[0]["lr"] == pytest.approx(last, rel=0.03)

"""A training step: however many images go through the networks at once, it is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from drorae.config import ObjectiveConfig, Runtime, TrialConfig
from drorae.losses import discriminator as losses
from drorae.training.adversary import make_adversary
from drorae.training.step import Stepper
from drorae.trial.run import run_trial
from drorae.trial.shared import open_workshop


@pytest.mark.slow
def test_pieces_of_a_batch_add_up_to_the_batch(config: TrialConfig, runtime: Runtime, tmp_path: Path) -> None:
    """16 images at once, in pieces of 5, and with activations computed twice: one loss curve."""
    curves = []
    for number, changes in enumerate(({}, {"micro_batch": 5}, {"activation_checkpointing": True})):
        other = dataclasses.replace(runtime, cache_dir=str(tmp_path / f"cache{number}"), **changes)
        rows: list[dict[str, float | str]] = []
        run_trial(config, rows.append, directory=tmp_path / f"trial{number}", runtime=other)
        curves.append([float(row["loss"]) for row in rows if "loss" in row])
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.slow
def test_compiled_steps_are_the_same(config: TrialConfig, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fusion and decoder, heard by a discriminator, two steps: losses to 1e-4, and no weight renamed.

    Adam's first steps are as long for a gradient of rounding errors as for any other: with short ones what parts the
    two after the first stays below the tolerance on every CPU.
    """
    discriminator = dataclasses.replace(config.discriminator, lr=2e-6)
    own = dataclasses.replace(
        config,
        objective=ObjectiveConfig(perceptual="none", gan_weight=0.75),
        discriminator=discriminator,
        phase2=dataclasses.replace(config.phase2, lr=1e-5),
    )
    # Compiling takes as long as there are blocks.
    shallow = VisionTransformer(32, 16, embed_dim=32, depth=4, num_heads=2, num_classes=0).eval().requires_grad_(False)
    monkeypatch.setattr(losses, "_TRANSFORMER", {(discriminator, torch.device("cpu")): shallow})
    phase = dataclasses.replace(own.phases[1], trains=("fusion", "decoder"))
    curves, names = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workshop = open_workshop(dataclasses.replace(own, objective=config.objective), runtime, lambda row: None)
        for wanted in (False, True):
            tokenizer = workshop.tokenizer()
            adversary = make_adversary(own, phase.settings, workshop.device, own.seed, compiling=wanted)
            stepper = Stepper(
                tokenizer, phase, workshop.train, workshop.objective, adversary, seed=0, device=workshop.device,
                runtime=dataclasses.replace(runtime, compile=wanted),
            )  # fmt: skip
            with contextlib.closing(stepper):
                curves.append([{name: float(value) for name, value in stepper.take(step).items()} for step in range(2)])
            assert adversary is not None
            names.append([*tokenizer.state_dict(), *stepper.module.state_dict(), *adversary.network.state_dict()])
    assert not [str(item.message) for item in caught if "not compiled" in str(item.message)]
    for found, expected in zip(curves[1], curves[0], strict=True):
        assert set(found) == {"loss", "l1", "gan", "gan_weight", "disc_loss"}
        # A ratio of gradients, in which L1's signs flip where a pixel is met all but exactly.
        assert found.pop("gan_weight") == pytest.approx(expected.pop("gan_weight"), rel=1e-2)
        assert found == pytest.approx(expected, rel=1e-4)
    assert names[0] == names[1]

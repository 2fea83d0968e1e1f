"""The check of every preset's steps, on the smallest networks."""

from __future__ import annotations

import math

import pytest
import torch
from checks.preset_steps import check_presets, prepared, steps
from rich.console import Console

from drorae.config import PRESETS
from drorae.losses import discriminator

CPU = torch.device("cpu")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_needs_no_download_and_keeps_its_recipe(name: str, small: bool) -> None:
    config, own = prepared(PRESETS[name], small), PRESETS[name]
    assert config.encoder.weights == config.discriminator.weights == "random"
    for ours, theirs in zip(config.phases, own.phases, strict=True):
        assert (ours.trains, ours.latent) == (theirs.trains, theirs.latent)
        assert ours.settings.batch_size == (min(theirs.settings.batch_size, 4) if small else theirs.settings.batch_size)
        assert ours.settings.precision == theirs.settings.precision
    assert small or (config.decoder, config.fusion, config.images) == (own.decoder, own.fusion, own.images)


def test_every_phase_takes_steps_with_finite_losses() -> None:
    found = list(steps(["smoke"], CPU, small=True))
    assert [(item.preset, item.phase, item.trains) for item in found] == [
        ("smoke", "phase1", "decoder"),
        ("smoke", "phase2", "fusion"),
    ]
    assert all(item.fine and item.images_per_second > 0 and not item.reason for item in found)


def test_what_does_not_fit_or_is_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    late = list(steps(["smoke", "paper"], CPU, small=True, seconds=-1))
    assert len(late) == 5 and all(item.reason == "not begun within -1 s" for item in late)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(discriminator, "_load_vit", full)
    console = Console(record=True, width=160)
    assert check_presets(["paper"], CPU, True, console, 4, math.inf)
    text = console.export_text()
    assert all(f"paper phase{n} skipped: its networks do not fit memory: CUDA out of memory" in text for n in (1, 2, 3))

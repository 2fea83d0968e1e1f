"""A training step: however many images go through the networks at once, it is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from drorae.config import Runtime, TrialConfig
from drorae.trial.run import run_trial


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

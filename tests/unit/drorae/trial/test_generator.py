"""A finished trial's generators: trained beside it, once, to the same weights however often they are stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_generator import CLASSES, RUN, label, tiny_runtime, tiny_trial

from drorae.config import Runtime
from drorae.errors import Notice, UserError
from drorae.models.weights import state_sha256
from drorae.trial import shared
from drorae.trial.generator import Generator, address, begun_run, ready_generator, with_field
from drorae.trial.result import read_result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_trial(tmp_path_factory.mktemp("home")).parent


@pytest.fixture
def trial(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home / "trial", tmp_path / "trial")


@pytest.fixture
def runtime(home: Path) -> Runtime:
    return tiny_runtime(home)


def digest(generator: Generator) -> tuple[str, str]:
    early = generator.early().model
    assert isinstance(early, torch.nn.Module)
    return state_sha256(generator.model.state_dict()), state_sha256(early.state_dict())


def stopping(step: int) -> Callable[[dict[str, Any]], None]:
    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == "generator" and row["step"] == step:
            raise KeyboardInterrupt

    return stop


def test_a_generator_is_trained_once_and_changes_nothing_of_the_trial(trial: Path, runtime: Runtime) -> None:
    before = {path: path.read_bytes() for path in trial.iterdir() if path.is_file()}
    rows: list[dict[str, Any]] = []
    found = ready_generator(trial, RUN, "mine", runtime, rows.append)
    assert found.directory == trial / "generator" / "mine" and found.classes == CLASSES and found.steps == 12
    assert [row["step"] for row in rows if row["phase"] == "generator"] == list(range(1, 13))
    assert {path: path.read_bytes() for path in trial.iterdir() if path.is_file()} == before
    own, early = digest(found)
    assert own != early
    assert not (found.directory / "checkpoint.pt").exists() and begun_run(trial, "mine") == RUN
    rows.clear()
    again = ready_generator(trial, RUN, "mine", runtime, rows.append)
    assert digest(again) == (own, early) and [row for row in rows if row["phase"] == "generator"] == []
    assert again.loss == found.loss and torch.equal(again.statistics.std, found.statistics.std)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_one_that_was_stopped_ends_with_the_same_weights(trial: Path, runtime: Runtime, step: int) -> None:
    """Before, at and after the step of the earlier average."""
    whole = digest(ready_generator(trial, RUN, "whole", runtime))
    with pytest.raises(KeyboardInterrupt):
        ready_generator(trial, RUN, "cut", runtime, stopping(step))
    assert digest(ready_generator(trial, RUN, "cut", runtime)) == whole


def test_without_a_name_it_has_its_address_s(trial: Path, runtime: Runtime) -> None:
    short = replace(RUN, training=replace(RUN.training, epochs=1))
    found = ready_generator(trial, short, runtime=runtime)
    other = ready_generator(trial, replace(short, seed=1), runtime=runtime)
    result = read_result(trial)
    assert result is not None and found.directory == trial / "generator" / address(result.config_hash, short)
    assert found.directory != other.directory and digest(found) != digest(other)
    assert len({address("a", short), address("b", short), address("a", RUN), address("a", replace(short, seed=1))}) == 4


def test_another_generator_of_the_name_is_refused(trial: Path, runtime: Runtime) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready_generator(trial, RUN, "mine", runtime, stopping(1))
    with pytest.raises(UserError, match=r"generator/mine: holds another generator, .* choose another --name"):
        ready_generator(trial, replace(RUN, seed=1), "mine", runtime)


def test_damaged_weights_are_made_again(trial: Path, runtime: Runtime) -> None:
    found = ready_generator(trial, RUN, "mine", runtime)
    path = found.directory / "generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(Notice, match="damaged"):
        again = ready_generator(trial, RUN, "mine", runtime)
    assert digest(again) == digest(found)


def test_one_that_diverges_says_so(trial: Path, runtime: Runtime) -> None:
    run = replace(RUN, training=replace(RUN.training, lr=1e30, clip_norm=0.0))
    with pytest.raises(UserError, match=r"lower generator\.lr; nothing is sampled"):
        ready_generator(trial, run, "mine", runtime)


def test_images_without_labels_need_a_generator_without_classes(
    home: Path, trial: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Opened as by another process.
    monkeypatch.setattr(shared, "_last", None)
    label(home / "images.npz", 0)
    try:
        with pytest.raises(UserError, match=r"use generator\.condition=none$"):
            ready_generator(trial, RUN, "mine", runtime)
        short = replace(RUN, training=replace(RUN.training, epochs=1))
        assert ready_generator(trial, with_field(short, "condition", "none"), "other", runtime).classes == 0
    finally:
        label(home / "images.npz")


def test_fields_are_of_the_generator_or_of_its_training() -> None:
    assert with_field(RUN, "width", "64").model.width == 64
    assert with_field(RUN, "epochs", "7").training.epochs == 7 and with_field(RUN, "seed", "3").seed == 3
    with pytest.raises(UserError, match=r"^generator\.capacity: no such field; known here: width, .*epochs.* seed$"):
        with_field(RUN, "capacity", "1")
    with pytest.raises(UserError, match=r"^generator\.lr: expected a number"):
        with_field(RUN, "lr", "fast")

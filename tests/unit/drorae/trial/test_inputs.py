"""Images and weights that change under a trial are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.config import PRESETS, Runtime, override
from drorae.errors import UserError
from drorae.storage.cache import Cache
from drorae.trial.folder import write_tree
from drorae.trial.inputs import check_inputs, note_prepared

CONFIG = override(override(PRESETS["smoke"], "images.source", "folder"), "images.path", "/pictures")
BEFORE = {"images_train": "a" * 64, "encoder": "e" * 16, "phase1_weights": "p" * 64, "phase1_decoder": "d"}


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(cache_dir=str(tmp_path / "cache"))


def test_the_same_inputs_and_ones_that_nobody_noted_pass(tmp_path: Path, runtime: Runtime) -> None:
    check_inputs(CONFIG, runtime, tmp_path, BEFORE)
    write_tree(tmp_path, "inputs.json", BEFORE)
    check_inputs(CONFIG, runtime, tmp_path, BEFORE)
    check_inputs(CONFIG, runtime, tmp_path, BEFORE | {"perceptual": "new"})
    (tmp_path / "inputs.json").write_text("{")
    check_inputs(CONFIG, runtime, tmp_path, {"images_train": "other"})


@pytest.mark.parametrize(
    ("name", "where"), [("images_train", "(/pictures)"), ("encoder", ""), ("phase1_weights", "/cache/decoders/d)")]
)
def test_what_changed_since_a_trial_began_is_named_with_its_place(
    tmp_path: Path, runtime: Runtime, name: str, where: str
) -> None:
    write_tree(tmp_path, "inputs.json", BEFORE)
    with pytest.raises(UserError) as raised:
        check_inputs(CONFIG, runtime, tmp_path, BEFORE | {name: "x" * 64})
    message = str(raised.value)
    assert message.startswith(name) and where in message and "\n" not in message
    assert f"was {BEFORE[name][:12]} and is {12 * 'x'} now: changed since this trial began" in message
    assert str(tmp_path) in message


def test_a_trial_that_has_not_begun_is_held_to_its_preparation(tmp_path: Path, runtime: Runtime) -> None:
    note_prepared(CONFIG, Cache(runtime.cache_dir), BEFORE)
    check_inputs(CONFIG, runtime, tmp_path / "trial", BEFORE)
    sibling = override(CONFIG, "fusion.expert_hidden_dim", 64)
    with pytest.raises(UserError, match="changed since this trial was prepared; .*prepare again"):
        check_inputs(sibling, runtime, tmp_path / "trial", BEFORE | {"images_train": "other"})
    stranger = override(CONFIG, "decoder.width", 64)
    check_inputs(stranger, runtime, tmp_path / "trial", BEFORE | {"images_train": "other"})

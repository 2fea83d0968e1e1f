"""Configs: what goes out as JSON comes back, and mistakes are named in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from drorae.config import (
    PRESETS,
    FusionConfig,
    TrialConfig,
    config_hash,
    from_dict,
    load_config,
    override,
    to_dict,
)
from drorae.errors import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    config = PRESETS[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    again = load_config(path)
    assert again == config
    assert config_hash(again) == config_hash(config)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "3", 3),
        ("fusion.beta", "0.25", 0.25),
        ("fusion.incremental", "false", False),
        ("fusion.variant", "mean", "mean"),
        ("phase2.betas", "0.5,0.9", (0.5, 0.9)),
        ("evaluation.extractors", "effnet", ("effnet",)),
        ("fusion.layers", "12,14,16", (12, 14, 16)),
        ("fusion.layers", "auto", ()),
        ("images.path", "some folder", "some folder"),
        ("phase2.lr", "1e-4", 1e-4),
    ],
)
def test_text_overrides_take_the_field_s_type(name: str, text: str, value: Any) -> None:
    config = override(PRESETS["quickstart"], name, text)
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)
    assert dataclasses.replace(PRESETS["quickstart"]) == PRESETS["quickstart"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nothing", "1"),
        ("fusion.nothing", "1"),
        ("nothing.beta", "1"),
        ("seed.more", "1"),
        ("fusion", "1"),
        ("seed", "1.5"),
        ("seed", "one"),
        ("seed", True),
        ("fusion.beta", "much"),
        ("fusion.beta", "nan"),
        ("phase2.lr", "inf"),
        ("fusion.incremental", "maybe"),
        ("fusion.variant", "attention"),
        ("phase2.betas", "0.9"),
        ("phase2.betas", 3),
        ("", "1"),
    ],
)
def test_unusable_overrides_are_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError) as raised:
        override(TrialConfig(), name, value)
    message = str(raised.value)
    assert "\n" not in message and message.startswith(name.split(".")[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such config file"),
        ("{", "not readable as JSON"),
        ("[1]", "expected one JSON object"),
        ('{"fusion": 3}', "expected a group of fields"),
        ('{"fusion": {"alpha": 1}}', "fusion.alpha: no such field"),
        ('{"phase2": {"epochs": 3, "lr": "x"}}', "phase2.lr: expected a number"),
        ('{"seed": null}', "expected a whole number"),
    ],
)
def test_unusable_config_files_are_one_line(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said) as raised:
        load_config(path)
    assert "\n" not in str(raised.value)


def test_fields_left_out_keep_their_defaults() -> None:
    assert from_dict(FusionConfig, {"beta": 0.5}) == FusionConfig(beta=0.5)
    assert from_dict(FusionConfig, {"expert_hidden_dim": 8.0}) == FusionConfig(expert_hidden_dim=8)

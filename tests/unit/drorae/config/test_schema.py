"""Fields of configs, and where their defaults come from."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from drorae.config import PRESETS, TrialConfig, default_cache_dir, override
from drorae.errors import UserError


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRORAE_CACHE", "/somewhere/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/xdg")
    assert default_cache_dir() == "/somewhere/own"
    monkeypatch.delenv("DRORAE_CACHE")
    assert default_cache_dir() == "/somewhere/xdg/drorae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == str(Path.home() / ".cache" / "drorae")


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and annotation of every field of a config."""
    for name, annotation in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(annotation):
            yield from leaves(typing.cast(type, annotation), f"{prefix}{name}.")
        else:
            yield prefix + name, annotation


NONSENSE: dict[Any, list[Any]] = {
    int: [-1, 1.5, "foo", "", float("nan"), None, [], 10**400 * -1],
    float: [float("nan"), float("inf"), "foo", "", None, [], -1.0, -0.001],
    bool: ["foo", 2, None, ""],
    str: ["", " "],
    Literal: ["foo", "", None, 3],
    tuple: ["foo", "nan", "", "-1", None, 3, ["x", None]],
}
FIELDS = dict(leaves(TrialConfig))
ANY_TEXT = {name for name, kind in FIELDS.items() if kind is str and not name.endswith("name")}
"""Paths, and the label; images.keys are any words."""


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - ANY_TEXT - {"images.keys"}))
def test_every_field_refuses_nonsense_of_its_type_by_its_dotted_name(name: str) -> None:
    for value in NONSENSE[typing.get_origin(FIELDS[name]) or FIELDS[name]]:
        with pytest.raises(UserError, match=f"^{name}: ") as caught:
            override(PRESETS["smoke"], name, value).check()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder.input_size": 57}, "encoder.input_size: 57 .* use 56 or 70"),
        ({"encoder.input_size": 13}, "encoder.input_size: .* use 14"),
        ({"encoder.name": "vit_base_patch16_224"}, "encoder.weights=offline holds only"),
        ({"encoder.weights": "file"}, "encoder.weights=file needs encoder.path"),
        ({"images.size": 33}, "images.size: 33 px cannot be cut"),
        ({"images.resize": 16}, "images.resize: "),
        ({"images.source": "folder"}, "images.source=folder needs images.path"),
        ({"decoder.heads": 3}, "decoder.width: "),
        ({"probe.heads": 5}, "probe.width: "),
        ({"probe.levels": "0.5,0.501"}, "probe.levels: "),
        ({"fusion.variant": "hirae", "fusion.incremental": "false"}, "fusion.incremental: "),
        ({"fusion.layers": "4,2"}, "fusion.layers: 4,2 is not ascending, each block once; use 2,4"),
        ({"fusion.layers": "2,2,4"}, "fusion.layers: 2,2,4 is not ascending, each block once; use 2,4"),
        ({"fusion.layers": "2,4", "fusion.num_layers": 2}, "fusion.layers: 2,4 and fusion.num_layers=2 both say"),
        ({"objective.gan_weight": 1, "discriminator.input_size": 60}, "discriminator.input_size: 60 .* use 56 or 64"),
        ({"objective.gan_weight": 1, "discriminator.weights": "file"}, "discriminator.weights=file needs"),
        ({"objective.gan_weight": 1, "discriminator.kernel": 8}, "discriminator.kernel: 8 has no middle; use 9"),
        ({"objective.gan_weight": 1}, "phase1.gan_start_steps: 0 lets .* step 0 on"),
        (
            {
                "objective.gan_weight": 1,
                "phase1.gan_start_steps": 9,
                "phase2.gan_start_steps": 5,
                "phase2.disc_start_steps": 5,
            },
            "phase2.gan_start_steps: 5 lets .* step 5 on",
        ),
        (
            {"objective.gan_weight": 1, "phase1.epochs": 0, "phase2.disc_from": "phase1"},
            "phase2.disc_from: no phase1 is trained before phase2; use fresh",
        ),
        (
            {
                "objective.gan_weight": 1,
                "phase1.gan_start_steps": 9,
                "fusion.variant": "last",
                "phase2.gan_start_steps": 9,
                "phase3.epochs": 1,
                "phase3.disc_from": "phase2",
            },
            "phase3.disc_from: no phase2 is trained before phase3; use fresh or phase1",
        ),
        ({"evaluation.extractors": "effnet,effnet"}, "evaluation.extractors: .* twice"),
        ({"evaluation.lpips": "vgg", "images.size": 16}, "images.size: 16 px is too small for LPIPS"),
    ],
)
def test_fields_that_do_not_go_together_are_refused_before_anything_is_loaded(
    changes: dict[str, Any], named: str
) -> None:
    config = PRESETS["smoke"]
    for name, value in changes.items():
        config = override(config, name, value)
    with pytest.raises(UserError, match=f"^{named}"):
        config.check()


def test_a_discriminator_that_is_not_used_is_not_judged() -> None:
    override(PRESETS["smoke"], "discriminator.input_size", 60).check()


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_presets_are_sound(name: str) -> None:
    PRESETS[name].check()


@pytest.mark.parametrize(
    ("fields", "train", "val"),
    [
        ({}, 12, 12),
        ({"fusion.num_layers": "3"}, 3, 3),
        ({"fusion.layers": "2,4"}, 11, 11),
        ({"fusion.layers": "2,4", "fusion.variant": "last"}, 1, 1),
        ({"phase2.epochs": "0"}, 1, 12),
    ],
)
def test_a_trial_says_how_many_layers_its_phases_read(fields: dict[str, str], train: int, val: int) -> None:
    config = TrialConfig()
    for name, value in fields.items():
        config = override(config, name, value)
    assert (config.reads(12), config.fusion.reads(12)) == (train, val)

"""Sizes of generators, and what does not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drorae.config import (
    GENERATORS,
    PRESETS,
    TRAININGS,
    FieldError,
    GenerationConfig,
    GeneratorConfig,
    GeneratorRun,
    config_hash,
    from_dict,
    generator_identity,
    override,
    to_dict,
)
from drorae.errors import UserError


@pytest.mark.parametrize("name", GENERATORS)
def test_named_sizes_hold_together_and_survive_json(name: str) -> None:
    GENERATORS[name].check()
    assert from_dict(GeneratorConfig, to_dict(GENERATORS[name])) == GENERATORS[name]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 130}, "generator.width"),
        ({"width": 120, "heads": 20}, "generator.width"),
        ({"head_width": 380}, "generator.head_width"),
        ({"early_depth": 4}, "generator.early_depth"),
        ({"condition": "text"}, "generator.text_encoder"),
        ({"text_encoder": "clip"}, "generator.condition=text"),
    ],
)
def test_what_does_not_go_together_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(GENERATORS["small"], **fields).check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class_dropout", 1.1),
        ("prediction", "eps"),
        ("times", "cosine"),
        ("shift", -1.0),
        ("condition", "words"),
        ("text_tokens", 0),
        ("head_depth", 0),
        ("early_weight", float("nan")),
    ],
)
def test_a_field_refuses_nonsense(field: str, value: Any) -> None:
    with pytest.raises(FieldError, match=field):
        replace(GeneratorConfig(), **{field: value})


def test_a_generator_without_texts_is_known_by_what_it_was_known_by_before_there_were_any() -> None:
    """Hashes of the version before."""
    runs = {
        "ce905a3f2aca": GeneratorRun(),
        "ed51e8199ed1": GeneratorRun(GENERATORS["dit_dh_s"], TRAININGS["drorae"], 3),
    }
    for known, run in runs.items():
        assert config_hash({"trial": "0" * 12, **generator_identity(run)}) == known
        assert from_dict(GeneratorRun, generator_identity(run)) == run
    spoken = replace(GeneratorConfig(), condition="text", text_encoder="clip", text_tokens=77)
    assert generator_identity(GeneratorRun(spoken)) == to_dict(GeneratorRun(spoken))


@pytest.mark.parametrize("training", TRAININGS)
def test_a_trial_says_its_generator_s_precision_or_leaves_it_to_the_training(training: Any) -> None:
    settings = GenerationConfig(training=training, epochs=50)
    assert settings.run(0, True).training.precision == TRAININGS[training].precision
    for precision in ("fp32", "bf16"):
        told = override(settings, "precision", precision).run(3, True)
        assert told == replace(settings.run(3, True), training=replace(told.training, precision=precision))
    with pytest.raises(UserError, match="precision: 'fp16' is not known"):
        override(settings, "precision", "fp16")


def test_a_trial_whose_generator_s_precision_is_not_said_has_the_hash_of_before_there_was_one() -> None:
    """Hashes of the version before."""
    known = {("quickstart", "small", "1000"): "6593a8d37e16", ("paper", "dit_dh_xl", "0"): "b59a9d2d4db8"}
    for (preset, size, images), before in known.items():
        config = override(override(PRESETS[preset], "phase1.precision", "fp32"), "images.resampling", "pillow")
        config = override(override(config, "images.val_images", images), "generator", size)
        found = [config_hash(override(config, "generator.precision", name)) for name in ("auto", "fp32", "bf16")]
        assert config_hash(config) == found[0] == before and len(set(found)) == 3

"""Sizes of generators, and what does not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drorae.config import (
    GENERATORS,
    TRAININGS,
    FieldError,
    GeneratorConfig,
    GeneratorRun,
    config_hash,
    from_dict,
    generator_identity,
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

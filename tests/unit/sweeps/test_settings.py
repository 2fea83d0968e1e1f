"""How a sweep is run: what is kept of it, and numbers that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drorae.config import Runtime, from_dict, to_dict
from drorae.errors import UserError
from sweeps.parsing import parse_rule
from sweeps.resources import Resources
from sweeps.settings import Asha, Settings
from sweeps.spec import Range, Search


def test_settings_are_read_as_they_were_written() -> None:
    rules = tuple(
        map(parse_rule, ("capacity=2048,4096:gpus=4,cpus=16", "evaluation.extractors=dinov2;effnet,dinov2:cpus=2"))
    )
    for resources in (Resources(rules=rules, gpus=0.5, reuse_workers=True), Resources()):
        for asha in (Asha(grace_epochs=2), None):
            settings = Settings(Runtime(), resources, 3, asha, 1.5, "module:run", "module:prepare", "median")
            assert from_dict(Settings, to_dict(settings)) == settings


def settings(**changed: Any) -> Settings:
    return replace(Settings(Runtime(), Resources(), 3, None, 0.0, "module:run", "module:prepare"), **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_failures": -1}, "max_failures: expected 0 or more, got -1"),
        ({"budget_hours": -0.5}, "budget_hours: expected 0 .no limit. or more, got -0.5"),
        ({"stall_minutes": -1.0}, "stall_minutes: expected 0 .by each trial's pace. or minutes, got -1"),
        ({"pruner": "hope"}, "pruner: expected one of none, median, hyperband, asha, got 'hope'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changed: dict[str, Any], message: str) -> None:
    settings().check()
    with pytest.raises(UserError, match=message):
        settings(**changed).check()


def test_a_searchs_own_pruner_goes_before_the_sweeps() -> None:
    search = Search((Range("lr", 1e-4, 1e-2),), pruner="median")
    assert settings().pruner_of(None) == "none" and settings(asha=Asha()).pruner_of(None) == "asha"
    assert settings(pruner="hyperband", asha=Asha()).pruner_of(None) == "hyperband"
    assert settings(pruner="hyperband").pruner_of(search) == "median"
    assert settings(pruner="hyperband").pruner_of(replace(search, pruner="none")) == "hyperband"

"""What `auto` stands for, and that it is settled once."""

from __future__ import annotations

import pytest

from drorae.config import PRESETS, config_hash, override
from drorae.machine import precision


@pytest.mark.parametrize(("instructions", "name"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_machine_is_fastest_at(monkeypatch: pytest.MonkeyPatch, instructions: bool, name: str) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: instructions)
    asked = override(override(PRESETS["smoke"], "phase1.precision", "auto"), "phase2.precision", "auto")
    found = precision.settled(asked)
    assert (found.phase1.precision, found.phase2.precision, found.phase3.precision) == (name, name, "fp32")
    assert config_hash(found) == config_hash(precision.settled(found))


def test_a_run_goes_on_elsewhere_as_it_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = override(PRESETS["smoke"], "phase2.precision", "auto")
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    begun = precision.settled(asked)
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert precision.settled(asked, begun) == begun != precision.settled(asked)

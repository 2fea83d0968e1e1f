"""Usage statistics are off unless asked for."""

from __future__ import annotations

import os

import pytest

from drorae.machine.telemetry import TELEMETRY, set_telemetry_defaults


def test_what_the_environment_says_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = TELEMETRY
    for name in others:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv(first, "asked for")
    set_telemetry_defaults()
    assert os.environ[first] == "asked for"
    assert {name: os.environ[name] for name in others} == {name: TELEMETRY[name] for name in others}

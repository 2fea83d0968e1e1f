"""Fields of configs, and where their defaults come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.config import (
    default_cache_dir,
)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRORAE_CACHE", "/somewhere/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/xdg")
    assert default_cache_dir() == "/somewhere/own"
    monkeypatch.delenv("DRORAE_CACHE")
    assert default_cache_dir() == "/somewhere/xdg/drorae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == str(Path.home() / ".cache" / "drorae")

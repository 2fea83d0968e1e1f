"""What a driver knows, with its screen on a terminal and at work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drorae.config import TrialConfig, config_hash

FOOTER = "Ctrl-C stops it; to go on: "


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a driver knows, with its screen on a terminal and at work."""
    from sweeps.driver.output import Tail
    from sweeps.driver.screen import Screen
    from sweeps.driver.session import Session

    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = os.openpty()
    configs = {config_hash(config): config for config in [TrialConfig()]}
    with open(theirs, "w") as people, (tmp_path / "driver.log").open("w") as log:
        with Screen("smoke", people, log, Tail(tmp_path / "driver.log"), FOOTER) as screen:
            yield Session(configs, tmp_path, [], screen, None)
        os.close(ours)

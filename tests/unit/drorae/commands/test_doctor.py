"""The command that says what is missing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from drorae.commands.main import main


def test_doctor_says_what_is_missing_and_how_to_get_it(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"] and found["devices"]["cpus"] >= 1
    assert found["cache"]["directory"] == os.environ["DRORAE_CACHE"]
    assert found["mlflow"] == {"uri": f"sqlite:///{elsewhere.resolve() / 'runs' / 'mlflow.db'}", "exists": False}
    monkeypatch.setitem(sys.modules["drorae.machine.doctor"].PACKAGES, "no-such-package", "no_such_package")
    assert main(["doctor"]) == 1
    assert "pip install no-such-package" in " ".join(capsys.readouterr().out.split())

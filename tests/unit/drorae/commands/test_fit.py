"""The command that fits a table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from terminal import PAPER

from drorae.commands.main import main


def test_fit_prints_the_paper_s_law_as_one_json_object(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # On a busy machine the libraries alone may take longer to load than a command is silent.
    monkeypatch.setattr("drorae.commands.terminal.PATIENCE", 600.0)
    assert main(["fit", PAPER, "--x", "params", "--y", "rfid", "--json"]) == 0
    captured = capsys.readouterr()
    tree = json.loads(captured.out)
    assert captured.err == ""
    assert (tree["n"], tree["law"]) == (8, "log-linear")
    assert round(tree["slope"], 4) == -0.0564
    assert round(tree["intercept"], 4) == 0.9194
    assert round(tree["r2"], 4) == 0.8605
    assert [round(value, 4) for value in tree["slope_ci95"]] == [-0.0790, -0.0337]
    assert not list(elsewhere.iterdir())
    assert main(["fit", PAPER, "--y", "rfid", "--out", "law"]) == 0
    assert "slope -0.0564" in capsys.readouterr().out
    assert {"law.json", "law.csv", "law.png", "law.svg", "report.html"} <= set(os.listdir("law"))

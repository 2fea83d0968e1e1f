"""`predict` and `plan` on two axes through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drorae.commands.main import main


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """A table on a grid of capacities and layers, in which a plane holds."""
    rng = np.random.default_rng(7)
    rows = [(h, n, 0.9 - 0.1 * np.log10(h) - 0.01 * n) for h in (16, 64, 256, 1024) for n in (2, 4, 8, 12)]
    frame = pd.DataFrame(rows, columns=["expert_hidden_dim", "num_layers", "rfid"])
    frame.assign(rfid=frame["rfid"] + rng.normal(0, 0.01, len(frame))).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


def test_a_pair_is_predicted_with_its_interval(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", runs, "--x", "capacity", "--and", "layers:linear", "--y", "rfid"]
    assert main([*asked, "--at", "512", "6", "--at", "100", "12", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    for made, truth in ((first, 0.9 - 0.1 * np.log10(512) - 0.06), (second, 0.9 - 0.2 - 0.12)):
        low, high = made["prediction95"]
        assert low < truth < high and high - low < 0.1 and made["trusted"]
    assert main([*asked, "--at", "512", "6"]) == 0
    said = capsys.readouterr().out
    assert "rfid at capacity = 512, layers = 6" in said and "95% envelope of a new run" in said and "additive" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--at", "512"], "two sizes"),
        (["--at", "512", "six"], "two numbers"),
        ([], "nothing to predict"),
        (["--at", "512", "6", "--target", "0.4"], "--target"),
        (["--at", "512", "6", "--register"], "--register"),
        (["--at", "1e6", "6"], "--extrapolate"),
        (["--at", "0", "6"], "size above 0"),
    ],
)
def test_what_a_pair_cannot_be_asked(
    more: list[str], message: str, runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", runs, "--x", "capacity", "--and", "layers", "--y", "rfid", *more]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_pair_far_out_is_marked(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", runs, "--x", "capacity", "--and", "layers", "--y", "rfid", "--at", "1e6", "6", "--extrapolate"]
    assert main(asked) == 0
    assert "EXTRAPOLATED" in capsys.readouterr().out


def test_compute_is_split_and_optima_are_found_level_by_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets = np.repeat(np.geomspace(1e19, 1e21, 4), 6)
    n = (budgets / 6) ** 0.5 * np.tile(np.geomspace(0.05, 1, 6), 4)
    d = budgets / 6 / n
    loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.36 + np.random.default_rng(0).normal(0, 0.002, len(n))
    frame = pd.DataFrame({"params": n, "tokens": d, "flop": budgets, "loss": loss})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    asked = ["fit", str(tmp_path / "runs.csv"), "--and", "tokens", "--y", "loss", "--compute", "1e22"]
    assert main([*asked, "--isoflop", "flop", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    low, high = tree["compute"]["exponent"]["ci95"]
    assert low < 0.36 / 0.71 < high and high - low < 0.2
    (best,) = tree["compute"]["optima"]
    assert 6 * best["first"]["value"] * best["second"]["value"] == pytest.approx(1e22)
    assert len(tree["isoflop"]["levels"]) == 4
    assert main([*asked, "--isoflop", "pairs"]) == 0
    said = capsys.readouterr().out
    assert "compute-optimal, C = 6 params tokens" in said and "isoFLOP optima of params" in said
    assert main(["fit", str(tmp_path / "runs.csv"), "--y", "loss", "--compute", "1e22"]) == 2
    assert "expected --and COLUMN" in capsys.readouterr().err

"""Predictions: how far out they are given, what they register, and how they are scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.predict import forecast, reach, register, score
from analysis.table.files import read_table
from drorae.commands.main import main
from drorae.errors import UserError

PAPER = Path(__file__).resolve().parents[4] / "results" / "paper" / "capacity.csv"


def test_envelope_holds_every_plausible_law_and_the_rival(paper: Analysis) -> None:
    made = forecast(paper.comparison, 2e8)
    assert [item.law for item in made.laws] == ["log-linear", "power", "power-offset"]
    assert made.of_run.low == min(item.of_run.low for item in made.laws)
    assert made.trusted and made.decades_beyond == pytest.approx(np.log10(2e8 / 113439756))
    assert [item.law for item in forecast(paper.comparison, 1e7).laws] == ["log-linear", "power"]
    far = forecast(paper.comparison, 1e10, extrapolate=True)
    assert not far.trusted and far.of_run.high - far.of_run.low > made.of_run.high - made.of_run.low


def test_targets_beyond_the_horizon_keep_their_numbers(paper: Analysis) -> None:
    found = reach(paper.comparison, 0.30)
    assert not found.trusted and not found.bounded
    assert all(item.pieces == () and "not trusted" in item.text for _, item, _ in found.laws)
    assert any("unbounded" in item.text for _, item, _ in found.laws)
    shown = reach(paper.comparison, 0.30, extrapolate=True)
    assert all(item.pieces for _, item, _ in shown.laws)
    assert reach(paper.comparison, 0.50).laws[0][1].estimate == pytest.approx(
        10 ** ((0.9194450856 - 0.5) / 0.0563694942)
    )


def test_new_images_move_all_values_together() -> None:
    x = np.geomspace(1e5, 1e8, 8)
    frame = pd.DataFrame({"params": x, "rfid": 1 - 0.05 * np.log10(x) + 0.001 * (-1) ** np.arange(8), "rfid_se": 0.02})
    made = analyse(frame, "params", "rfid").predict(1.5e8)
    assert made.on_new_images is not None
    assert made.on_new_images.high - made.on_new_images.low > 2 * 1.96 * np.sqrt(2) * 0.02
    assert made.of_run.high - made.of_run.low < 0.02


def test_registered_predictions_are_scored(paper: Analysis) -> None:
    record = json.loads(json.dumps(register(paper.comparison, forecast(paper.comparison, 2e8))))
    hit, miss = score(record, 0.45), score(record, 0.60)
    assert hit.inside and hit.interval_score == pytest.approx(record["envelope"][1] - record["envelope"][0])
    assert not miss.inside and not any(inside for _, _, inside in miss.laws)
    frame = read_table(PAPER)
    frame.loc[0, "rfid"] += 1e-6
    other = analyse(frame, "params", "rfid")
    assert register(other.comparison, other.predict(2e8))["data_sha256"] != record["data_sha256"]
    with pytest.raises(UserError, match="not a registered prediction"):
        score({"kind": "else"}, 0.4)


def test_predict_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "2e8", "--target", "0.4", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["predictions"][0]["trusted"] and not tree["targets"][0]["trusted"]
    assert {"laws", "prediction95", "decades_beyond"} <= set(tree["predictions"][0])
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "2e8"]) == 0
    said = capsys.readouterr().out
    fit = analyse(read_table(PAPER), "params", "rfid")
    assert all(item.message in said and f"[{item.code}]" in said for item in fit.cautions)
    assert all(item.reason in said for item in fit.verdicts)
    assert f"({fit.horizon.rule})" in said
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "1e10"]) == 2
    assert "--extrapolate" in capsys.readouterr().err
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "1e10", "--extrapolate"]) == 0
    assert "EXTRAPOLATED" in capsys.readouterr().out
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "2e8", "--register", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (written,) = tmp_path.glob("prediction-*.json")
    later = pd.concat([read_table(PAPER), pd.DataFrame([{"params": 2e8, "rfid": 0.44}])])
    later.to_csv(tmp_path / "later.csv", index=False)
    assert main(["predict", str(tmp_path / "later.csv"), "--score", str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inside"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), ""),
        (("--where", "variant=energy"), ""),
        (("--where", "variant=mean"), "--where variant=mean: the prediction was registered with variant=energy"),
        (("--y", "psnr"), "--y psnr: the prediction was registered with rfid"),
        (("--x", "layers"), "--x layers: the prediction was registered with params"),
        (("--filter", "metrics.rfid > 1"), "the prediction was registered with none"),
    ],
)
def test_a_record_keeps_what_it_is_of_and_is_scored_against_nothing_else(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.geomspace(1e5, 1e8, 6)
    clean = 1 - 0.05 * np.log10(x) + 0.002 * (-1) ** np.arange(6)
    frame = pd.concat([pd.DataFrame({"params": x, "rfid": clean + more, "variant": name, "psnr": 1.0 + x})
                       for name, more in (("energy", 0), ("mean", 1))])  # fmt: skip
    frame.to_csv(tmp_path / "runs.csv", index=False)
    said = ["predict", str(tmp_path / "runs.csv"), "--y", "rfid", "--where", "variant=energy", "--at", "1.5e8"]
    assert main([*said, "--register", "--out", str(tmp_path)]) == 0
    (written,) = tmp_path.glob("prediction-*.json")
    record = json.loads(written.read_text())
    assert record["of"] == {"variant": ["energy"]} and record["origin"]["where"] == ["variant=energy"]
    assert record["origin"]["source"].endswith("runs.csv") and record["y"] == "rfid"
    assert record["origin"]["drorae"] and record["date"].startswith("20")
    new = [{"params": 1.5e8, "rfid": 1 - 0.05 * np.log10(1.5e8) + more, "variant": name, "psnr": 1.0}
           for name, more in (("energy", 0), ("mean", 1))]  # fmt: skip
    pd.concat([frame, pd.DataFrame(new)]).to_csv(tmp_path / "later.csv", index=False)
    capsys.readouterr()
    code = main(["predict", str(tmp_path / "later.csv"), "--score", str(written), "--json", *options])
    out, err = capsys.readouterr()
    assert (code, message in err) == (2 if message else 0, True)
    if not message:
        assert json.loads(out)["inside"] is True, "of energy alone, though mean has that size too"

"""The command that fits a table."""

from __future__ import annotations

import io
import json
import os
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from done_trials import finish
from tables import GUIDED, generating
from terminal import PAPER

from drorae.commands.main import main
from drorae.config import PRESETS, override
from sweeps.folder.table import table_rows, write_table
from sweeps.spec import Axis, SweepSpec, expand


def test_fit_prints_the_paper_s_law_as_one_json_object(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_compute_of_every_trial_is_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = override(PRESETS["smoke"], "encoder.path", "sleep=0")
    configs = expand(SweepSpec("mine", base, (Axis("capacity", (4, 8, 16, 32, 64)), Axis("seed", (0, 1)))))
    for config in configs:
        finish(tmp_path, config)
    write_table(tmp_path / "trials.csv", table_rows(configs, tmp_path))
    assert main(["fit", str(tmp_path / "trials.csv"), "--x", "train_flops", "--y", "psnr", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    # The stand-in's PSNR is 10 + log10 of the capacity, and its compute in proportion to that.
    assert (tree["n"], tree["n_configurations"]) == (10, 5) and tree["slope"] == pytest.approx(1)


@pytest.mark.parametrize(("first", "second"), [("val/loss", "val:loss"), ("../../loss", "l" * 280)])
def test_columns_of_any_name_are_fitted_into_files(elsewhere: Path, first: str, second: str) -> None:
    root = elsewhere / "deep" / "below"
    root.mkdir(parents=True)
    rows = [
        f"{capacity * layers * 1000},{layers},{20 + capacity % 7 + layers},{30 + capacity % 5 - layers}"
        for capacity in (1, 3, 9, 27, 81)
        for layers in (2, 4, 8)
    ]
    table = root / "runs.csv"
    table.write_text("\n".join([f"params,num_layers,{first},{second}", *rows]))
    both = ["--y", first, second]
    assert main(["fit", str(table), *both, "--out", str(root / "law")]) == 0
    assert main(["fit", str(table), *both, "--and", "layers", "--out", str(root / "axes")]) == 0
    assert len(list((root / "axes").glob("*/report.html"))) == 2
    for name in (first, second):
        words = ["--y", name, "--at", "30000", "--register", "--out", str(root / "kept")]
        assert main(["predict", str(table), *words]) == 0
    kept = list((root / "kept").iterdir())
    assert sorted(json.loads(path.read_text())["y"] for path in kept) == sorted([first, second])
    assert {path.name for path in root.iterdir()} == {"runs.csv", "law", "axes", "kept"}
    assert {path.name for path in elsewhere.iterdir()} == {"deep"}


def test_settings_of_a_foreign_table_are_refused_then_told_apart_or_chosen_from(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"{10**k},{lr},{seed},{9 - k + (lr == 0.1) + 0.01 * ((7 * k + 3 * seed) % 5)}"
        for k in range(2, 9)
        for lr in (0.1, 0.01)
        for seed in (0, 1)
    ]
    Path("runs.csv").write_text("\n".join(["params,lr,seed,rfid", *rows]))
    words = ["fit", "runs.csv", "--y", "rfid", "--json"]
    assert main(words) == 2
    refused = capsys.readouterr().err
    assert "--configuration lr" in refused and "--best-of lr" in refused and refused.count("\n") == 1
    assert main([*words, "--configuration", "lr"]) == 0
    apart = json.loads(capsys.readouterr().out)
    assert apart["n_configurations"] == 14 and apart["seed_sd"] < 0.05
    assert main([*words, "--best-of", "lr", "--out", "law"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert best["n_configurations"] == 7 and best["slope"] == pytest.approx(-1, abs=0.01)
    assert "best-of" in [item["code"] for item in best["warnings"]] and len(best["excluded"]) == 14
    assert "is the best of 2 runs over lr" in Path("law/report.html").read_text()


def test_a_table_comes_by_standard_input(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(PAPER).read_bytes())))
    assert main(["fit", "-", "--y", "rfid", "--json"]) == 0
    assert round(json.loads(capsys.readouterr().out)["slope"], 4) == -0.0564
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(PAPER).read_bytes())))
    assert main(["report", "-", "--out", "law"]) == 0
    assert Path("law/report.html").is_file()


CHINCHILLA = Path(__file__).resolve().parents[5] / "shared" / "data" / "chinchilla-epoch.csv"


@pytest.mark.skipif(not CHINCHILLA.is_file(), reason="Epoch's points of Chinchilla's figure lie beside no clone")
def test_chinchilla_is_refitted_as_published(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Besiroglu et al. (2024): without the five highest losses, Huber's loss of log residuals with delta 1e-3.
    header, *rows = CHINCHILLA.read_text().split()
    kept = sorted(rows, key=lambda row: float(row.split(",")[3]))[:-5]
    Path("points.csv").write_text("\n".join([header, *kept]))
    words = ["fit", "points.csv", "--x", "params", "--and", "tokens", "--y", "loss", "--law", "chinchilla"]
    assert main([*words, "--method", "huber", "--resamples", "400", "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    found = {item["name"]: item for item in asked["parameters"]}
    published = {"A": 477.8, "B": 2143.0, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}
    errors = {"A": 124.58, "B": 1293.23, "E": 0.03, "alpha": 0.02, "beta": 0.02}
    for name, value in published.items():
        assert found[name]["value"] == pytest.approx(value, rel=2e-4)
        low, high = found[name]["ci95"]
        assert low < value < high
        assert (high - low) / 4 == pytest.approx(errors[name], rel=0.4)
    assert asked["floor"]["side"] == "at least" and 1.75 < asked["floor"]["bound"] < 1.8172
    assert main([*words, "--method", "huber", "--resamples", "100"]) == 0
    text = capsys.readouterr().out
    assert "E = 1.8172" in text and "A = 477.8" in text and "B = 2143" in text and "E: at least 1.7" in text


def test_a_law_is_asked_for_by_name_and_method(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", PAPER, "--y", "rfid", "--law", "power", "--out", "law"]) == 0
    assert capsys.readouterr().out.startswith("rfid: power, the law asked for: y = A x^-b; least squares")
    assert "power" in Path("law/report.html").read_text()
    words = "--method huber --residuals plain --delta 0.01 --resampling residuals --resamples 200 --bootstrap-seed 3"
    assert main(["fit", PAPER, "--y", "rfid", *words.split(), "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    told = [asked[name] for name in ("law", "method", "residuals", "delta", "resampling", "resamples", "seed")]
    assert told == ["log-linear", "huber", "plain", 0.01, "residuals", 200, 3]


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--delta", "0.01"], "--delta: of --method huber alone"), (["--bootstrap-seed", "1"], "--bootstrap-seed: of"),
     (["--law", "chinchilla"], "--and names the second"), (["--law", "pwr"], "no such law"),
     (["--and", "layers", "--law", "power"], "leave out --and"),
     (["--and", "layers", "--method", "huber"], "name it with --law")],
)  # fmt: skip
def test_what_a_law_cannot_be_asked_is_said_in_a_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    assert main(["fit", PAPER, "--y", "rfid", *words]) == 2
    assert named in " ".join(capsys.readouterr().err.split())


def test_the_help_names_every_law() -> None:
    from analysis.laws.forms import FORMS
    from drorae.commands import fit

    source = Path(fit.__file__).read_text()
    assert all(name in source for name in FORMS)


def test_a_law_of_generated_images_with_and_without_guidance(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = generating()
    guided = f"{GUIDED}gfd_effnet2"
    frame.to_csv("trials.csv", index=False)
    assert main(["fit", "trials.csv", "--y", "gfd_effnet2", guided, "--json", "--out", "law"]) == 0
    plain = json.loads(capsys.readouterr().out)
    (other,) = plain["also"]
    means = frame.groupby("fusion_params")[["gfd_effnet2", guided]].mean()
    for tree in (plain, other):
        slope = np.polyfit(np.log10(means.index), means[tree["y"]], 1)[0]
        # The fit may weigh the means by their seeds' scatter.
        assert tree["slope"] == pytest.approx(slope, rel=0.01) and tree["n_configurations"] == 6
        # Of the samples, not of the reconstructions.
        assert tree["eval_images"] == 500
    page = unescape(Path("law/report.html").read_text())
    assert "Generation's Fréchet distance (EfficientNet-Lite2 features), autoguidance 1.5" in page
    # A guidance's samples are counted by itself.
    frame.assign(**{f"{guided}_images": [300] + [500] * 11}).to_csv("trials.csv", index=False)
    assert main(["fit", "trials.csv", "--y", "gfd_effnet2"]) == 0
    capsys.readouterr()
    assert main(["fit", "trials.csv", "--y", guided]) == 2
    refused = capsys.readouterr().err
    assert f"{guided}_images, 300 (1 rows), 500 (11 rows)" in refused and refused.count("\n") == 1


def test_a_report_fits_what_is_generated_without_further_guidance(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generating().to_csv("trials.csv", index=False)
    assert main(["report", "trials.csv", "--out", "law"]) == 0
    tree = json.loads(Path("law/law.json").read_text())
    fitted = [tree["y"], *(item["y"] for item in tree["also"])]
    assert fitted == ["rfd_effnet2", "psnr", "gfd_effnet2"]

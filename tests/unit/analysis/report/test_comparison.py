"""`drorae compare` with a report, of sources of several kinds."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import trials

from drorae.commands.main import main


def better(by: float) -> pd.DataFrame:
    rng = np.random.default_rng(int(by * 10))
    return trials(psnr=[20 + by + 0.5 * k + rng.normal(0, 0.02) for k in range(6)])


def experiment(uri: str, frame: pd.DataFrame, name: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    where = client.create_experiment(name)
    for row in frame.to_dict("records"):
        run = client.create_run(where).info.run_id
        for key in ("expert_hidden_dim", "fusion_params"):
            client.log_param(run, key, row[key])
        client.log_metric(run, "psnr", row["psnr"])
        client.log_metric(run, "eval_images", 1500)
        client.set_terminated(run, "FINISHED")


@pytest.mark.parametrize("kind", ["two tables", "two sweeps", "table and experiment"])
def test_two_sources_are_compared_and_reported(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places, options = [tmp_path / "first", tmp_path / "second"], []
    for place, gain in zip(places, (0.0, 1.0), strict=True):
        place.mkdir()
        better(gain).to_csv(place / "trials.csv", index=False)
    sources, winner = [str(place) for place in places], "second"
    if kind == "two tables":
        sources = [str((place / "trials.csv").rename(tmp_path / f"{place.name}.csv")) for place in places]
    if kind == "table and experiment":
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        experiment(uri, better(1.0), "second")
        sources, options, winner = [sources[0], "mlflow:second"], ["--tracking-uri", uri], "mlflow:second"
    out = tmp_path / "report"
    arguments = ["compare", sources[0], "--with", sources[1], "--y", "psnr", *options]
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["by"] == "source" and [item["design"] for item in tree["designs"]] == ["first", winner]
    said = {item["claim"].partition(" at ")[0]: item["verdict"] for item in tree["verdicts"]}
    assert said[f"{winner} is better than first"] == "supported" and len(said) == len(tree["verdicts"]) == 2
    assert {path.name for path in out.iterdir()} == {
        "compare.json", "compare.csv", "compare.txt", "compare.tex", "compare.png", "compare.svg", "compare.pdf",
            "report.html", "report.md",
    }  # fmt: skip
    assert json.loads((out / "compare.json").read_text()) == tree
    assert len(pd.read_csv(out / "compare.csv")) == 12
    assert f"{winner} is better than first" in (out / "report.html").read_text()


def test_a_source_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    better(0.0).to_csv(tmp_path / "runs.csv", index=False)
    runs = str(tmp_path / "runs.csv")
    assert main(["compare", runs, "--with", runs, "--y", "psnr"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_a_metric_in_one_design_s_own_features_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, gain, seen in (("a", 0.0, ""), ("b", 1.0, "dinov2=tokenizer")):
        frame = better(gain).rename(columns={"psnr": "rfd_dinov2"})
        frame.assign(looked_through=seen).to_csv(tmp_path / f"{name}.csv", index=False)
    sources = [str(tmp_path / "a.csv"), "--with", str(tmp_path / "b.csv")]
    assert main(["compare", *sources, "--y", "rfd_dinov2", "--out", str(tmp_path / "out")]) == 0
    mark = "in the tokenizer's own features"
    assert capsys.readouterr().out.startswith(f"rfd_dinov2 ({mark}) on ")
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["mark"] == mark
    assert mark in unescape((tmp_path / "out" / "report.md").read_text())

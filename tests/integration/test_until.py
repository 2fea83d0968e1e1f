"""A sweep that ends when its law is decided, on real Ray and a real MLflow store, from the command line's side."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from fake_sweep import sweep
from mlflow.tracking import MlflowClient

from drorae.commands.main import main
from drorae.commands.until import decided
from drorae.config import PRESETS, override
from sweeps.driver.status import sweep_state
from sweeps.spec import Axis, SweepSpec

pytestmark = pytest.mark.usefixtures("ray")

LINE = "decided after 5 of 12 trials: SUPPORTED log-linear: psnr follows log10(params) from 4000 to 1.28e+05 [level: "


def test_a_sweep_ends_when_its_law_is_decided_and_its_rest_is_run_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = override(PRESETS["smoke"], "encoder.path", "noise=0.02&sleep=0")
    spec = SweepSpec(
        "mine", base, (Axis("capacity", (4, 8, 16, 32, 64, 128)), Axis("seed", (0, 1))), check_convergence=True
    )
    outcome = sweep(spec, tmp_path, until="log-linear", decided=decided)
    assert outcome.counts == {"finished": 7, "not_needed": 7} and outcome.decided.startswith(LINE)
    table = pd.read_csv(outcome.trials_csv)
    first = table[(table["status"] == "finished") & (table["role"] != "convergence")]
    assert sorted(first["expert_hidden_dim"]) == [4, 8, 16, 64, 128] and set(first["seed"]) == {0}
    client = MlflowClient(outcome.tracking_uri)
    runs = client.search_runs([str(client.get_experiment_by_name("mine").experiment_id)])  # type: ignore[union-attr]
    assert len(runs) == 8 and {run.info.status for run in runs} == {"FINISHED"}
    state = sweep_state(outcome.directory)
    assert state.counts == outcome.counts and state.decided == outcome.decided and not state.seconds_left
    words = ["--root", str(tmp_path)]
    assert main(["status", "mine", *words]) == 0
    said = capsys.readouterr().out
    assert LINE in " ".join(said.split()) and "no driver is at work" not in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outcome.tracking_uri)
    assert main(["resume", "mine", *words]) == 0
    heard = capsys.readouterr()
    last = heard.err.splitlines()[-1]
    assert last.startswith(LINE) and last.endswith(
        f"to run the 7 not needed: drorae resume mine --root {tmp_path} --until all"
    )
    assert "7 not_needed" in heard.out and "left out: 7 rows: status not_needed: decided after 5 of 12 trials" in (
        " ".join(heard.out.split())
    )
    assert "5 of 12 trials, and 2 that check convergence" in (outcome.directory / "law" / "report.html").read_text()
    attempts = len(list(outcome.directory.glob("trials/*/attempts.log")))
    assert attempts == 7, "nothing was run"
    assert main(["resume", "mine", *words, "--until", "all", "--no-fit", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["counts"] == {"finished": 14} and tree["decided"] == ""
    assert main(["resume", "mine", *words, "--no-fit"]) == 0
    assert "decided" not in capsys.readouterr().err, "the whole grid is what is asked for now"

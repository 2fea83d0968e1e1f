"""`drorae eval`: what GenEval's evaluator found joins a trial's result, and with it table, MLflow and laws."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from done_trials import finish, spec_of
from fake_sweep import sweep
from geneval_files import results, write_results
from runs import only_run
from tiny_generator import tiny_trial

from drorae.commands.main import main
from drorae.config import PRESETS, config_hash
from drorae.metrics.geneval import read_geneval
from drorae.trial.result import read_result
from sweeps.folder.sweep import read_record
from sweeps.spec import expand

SIZES = (4, 8, 16, 32)


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    return finish(tmp_path / "alone", PRESETS["smoke"])


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results.jsonl", results(4, (2,)))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_trial(tmp_path_factory.mktemp("home"))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_scores_join_the_trial_s_metrics_and_its_provenance(
    trial: Path, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((trial / "result.json").read_text())
    assert main(["eval", str(trial), "--geneval", str(scores), "--json"]) == 0
    out, err = capsys.readouterr()
    found = read_geneval(scores).metrics
    assert json.loads(out) == found and f"the scores are in {trial / 'result.json'}\n" in err
    after = json.loads((trial / "result.json").read_text())
    assert after["metrics"] == before["metrics"] | found
    assert after["provenance"] == before["provenance"] | {
        "fingerprint.geneval": hashlib.sha256(scores.read_bytes()).hexdigest()[:16],
        "note.geneval": f"{scores}: 48 images of 24 prompts",
    }
    changed = {"metrics", "provenance", "schema", "drorae"}
    assert {name: after[name] for name in after.keys() - changed} == {
        name: before[name] for name in before.keys() - changed
    }
    # Other results take their place.
    write_results(scores, results(5, (2,), better=0.2))
    assert main(["eval", str(trial), "--geneval", str(scores)]) == 0
    result = read_result(trial)
    assert result is not None and result.metrics == before["metrics"] | read_geneval(scores).metrics
    assert result.provenance["note.geneval"].endswith("60 images of 30 prompts")
    table = capsys.readouterr().out
    assert all(name in table for name in ("geneval_color_attr_se", "geneval_images")) and "psnr" not in table


@pytest.mark.slow
def test_scores_reach_the_table_mlflow_and_a_law_when_the_sweep_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec, root = spec_of("mine", SIZES), tmp_path / "runs"
    configs = list(expand(spec))
    for config in configs:
        finish(root / "mine" / "trials", config)
    sweep(spec, root, quiet=True)
    found = {}
    for i, config in enumerate(configs):
        key = config_hash(config)
        path = write_results(tmp_path / f"{key}.jsonl", results(20, (4,), seed=i, better=0.05 * i))
        capsys.readouterr()
        assert main(["eval", str(root / "mine" / "trials" / key), "--geneval", str(path)]) == 0
        found[key] = read_geneval(path).metrics
    words = capsys.readouterr().err.partition("its sweep's table and MLflow get them with: drorae ")[2].split()
    assert words == ["resume", "mine", "--root", str(root)]
    assert main([*words, "--no-fit"]) == 0
    with (root / "mine" / "trials.csv").open() as file:
        table = {row["config_hash"]: row for row in csv.DictReader(file)}
    from mlflow.tracking import MlflowClient

    address = read_record(root / "mine").tracking
    assert address is not None
    client = MlflowClient(address.tracking_uri)
    for config in configs:
        key = config_hash(config)
        run = only_run(client, address, config)
        assert {name: float(table[key][name]) for name in found[key]} == found[key]
        assert {name: run.data.metrics[name] for name in found[key]} == found[key]
        assert float(table[key]["psnr"]) == run.data.metrics["psnr"]
        assert run.data.tags["drorae.note.geneval"].endswith("480 images of 120 prompts")
    capsys.readouterr()
    assert main(["fit", str(root / "mine"), "--y", "geneval", "--json"]) == 0
    law: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert law["y"] == "geneval" and law["slope"] > 0


def test_no_network_is_loaded_for_scores_alone(trial: Path, scores: Path) -> None:
    code = (
        "import sys; from drorae.commands.main import main; "
        f"assert main(['eval', {str(trial)!r}, '--geneval', {str(scores)!r}, '--json']) == 0; "
        "print(sorted({'torch', 'timm', 'ray', 'mlflow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]" and json.loads(done.stdout)["geneval_images"] == 48


def test_other_options_measure_the_trial_again_beside_the_scores(
    real: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = read_result(real)
    assert own is not None
    copy = shutil.copytree(real, tmp_path / "trial")
    words = ["eval", str(copy), "--device", "cpu", "--threads", "1", "--cache-dir", str(real.parent / "cache")]
    assert main([*words, "--geneval", str(scores), "--quantise", "truncate", "--json"]) == 0
    printed, found = json.loads(capsys.readouterr().out), read_geneval(scores).metrics
    assert printed["psnr"] != own.metrics["psnr"] and found.items() <= printed.items()
    after = read_result(copy)
    assert after is not None and after.metrics == own.metrics | found, "only scores are written"


def test_mistakes_leave_the_result_as_it_is(
    trial: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trial / "result.json").read_bytes()
    scores.write_text(scores.read_text()[:-9])
    words = ["eval", str(trial), "--geneval", str(scores)]
    assert f"{scores}, line 48: damaged, not JSON; give" in refused(words, capsys)
    assert "nowhere.jsonl: cannot be read" in refused([*words[:-1], str(tmp_path / "nowhere.jsonl")], capsys)
    assert (trial / "result.json").read_bytes() == before
    away = refused(["eval", "memory://bucket/runs/mine/trials/abc", *words[2:]], capsys)
    assert "expected a folder with --geneval; copy the trial to this machine" in away
    assert "no finished trial here" in refused(["eval", str(tmp_path / "nowhere"), *words[2:]], capsys)
    write_results(scores, results(4, (2,)))
    diverged = json.loads(before) | {"status": "diverged", "metrics": {}, "reason": "loss nan at step 3"}
    (trial / "result.json").write_text(json.dumps(diverged))
    assert "the trial diverged (loss nan at step 3); nothing is measured of it" in refused(words, capsys)
    assert json.loads((trial / "result.json").read_text()) == diverged

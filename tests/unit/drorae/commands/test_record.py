"""`drorae report` scores registered predictions as their runs come in: of a folder, and of a whole tracking server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from drorae.commands.main import main
from drorae.commands.sweep import _fit
from drorae.config import PRESETS
from sweeps.driver.run import SweepOutcome
from sweeps.spec import SweepSpec

SIZES = np.geomspace(1e5, 1e8, 6)


def sweep(sizes: np.ndarray, seed: int = 0, error: float = 0.0) -> pd.DataFrame:
    """A sweep's table of which psnr is a line."""
    wiggle = 0.02 * (-1) ** np.arange(len(sizes))
    return pd.DataFrame(
        {
            "config_hash": [f"{size:.4g}-{seed}" for size in sizes],
            "variant": "energy",
            "expert_hidden_dim": np.round(sizes / 1e4).astype(int),
            "num_layers": 12,
            "seed": seed,
            "fusion_params": sizes,
            "psnr": 10 + np.log10(sizes) + wiggle + error,
            "eval_images": 500,
            "status": "finished",
        }
    )


def write(frame: pd.DataFrame, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "trials.csv", index=False)


def test_a_folder_s_predictions_are_scored_when_their_runs_arrive(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = elsewhere / "runs" / "toy"
    frame = sweep(SIZES)
    write(frame, toy)
    words = ["--y", "psnr", "--register", "--out", "runs/toy/kept", "--at"]
    assert main(["predict", "runs/toy", *words, "1.5e8", f"{SIZES[2]:.17g}"]) == 0
    assert main(["predict", "runs/toy", *words, "1.8e8", "--seeds", "2"]) == 0
    capsys.readouterr()
    assert main(["report", "runs/toy"]) == 0
    said = capsys.readouterr().out
    assert "registered predictions: 0 scored, 3 awaited" in said and "calibration" not in said
    assert "0 new runs of that size; expected the run" in said, "what was there is no score"

    new = [frame, sweep(np.array([1.5e8])), sweep(np.array([1.8e8]), 0, 5.0)]
    write(pd.concat(new), toy)
    assert main(["report", "runs/toy"]) == 0
    said = capsys.readouterr().out
    assert "registered predictions: 1 scored, 2 awaited" in said
    assert "1 new runs of that size; expected the 2 runs" in said
    assert (
        "calibration: 1 of 1 inside their 95% interval, 100% (exact 95% interval 3% .. 100%): too few to tell" in said
    )

    write(pd.concat([*new, sweep(np.array([1.8e8]), 1, 5.0)]), toy)
    assert main(["report", "runs/toy"]) == 0
    said = capsys.readouterr().out
    assert "registered predictions: 2 scored, 1 awaited" in said and "outside by" in said
    kept = json.loads((toy / "law" / "predictions.json").read_text())
    assert (kept["own"]["calibration"]["hits"], kept["own"]["calibration"]["count"]) == (1, 2)
    assert [item["inside"] for item in kept["predictions"]].count(True) == 1


def test_a_register_elsewhere_is_named_and_a_table_has_its_own_alone(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sweep(SIZES), elsewhere / "a")
    (elsewhere / "a" / "trials.csv").rename(elsewhere / "a" / "one.csv")
    sweep(SIZES, error=3.0).to_csv(elsewhere / "a" / "two.csv", index=False)
    for name in ("one", "two"):
        said = ["predict", f"a/{name}.csv", "--y", "psnr", "--at", "1.5e8", "--register", "--out", f"a/of-{name}"]
        assert main(said) == 0
    assert main(["predict", "a/one.csv", "--y", "psnr", "--at", "1.6e8", "--register", "--out", "far/away"]) == 0
    capsys.readouterr()
    assert main(["report", "a/one.csv"]) == 0
    assert "registered predictions: 0 scored, 1 awaited" in capsys.readouterr().out
    assert main(["report", "a/one.csv", "--predictions", "far/away"]) == 0
    assert "registered predictions: 0 scored, 2 awaited" in capsys.readouterr().out
    assert main(["report", "a/one.csv", "--predictions", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_a_registered_prediction_is_never_written_over(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(sweep(SIZES), elsewhere / "toy")
    words = ["predict", "toy", "--y", "psnr", "--at", "1.5e8", "--register", "--out", "kept"]
    assert main(words) == 0
    (first,) = (elsewhere / "kept").iterdir()
    first.write_text(first.read_text().replace('"date": "', '"date": "early '))
    kept = first.read_text()
    capsys.readouterr()
    assert main(words) == 0 and "registered before, and left as it was" in capsys.readouterr().err
    assert main([*words, "--seeds", "2"]) == 0
    assert first.read_text() == kept and len(list((elsewhere / "kept").iterdir())) == 2


def test_nothing_registered_is_not_spoken_of(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(sweep(SIZES), elsewhere / "toy")
    assert main(["report", "toy"]) == 0
    assert "registered" not in capsys.readouterr().out
    assert not (elsewhere / "toy" / "law" / "predictions.json").exists()


def test_a_prediction_is_scored_with_the_options_it_was_registered_with(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(size, 1000 * lr, seed, 10 + np.log10(size) - 100 * lr + 0.01 * seed + 0.01 * (i % 2))
            for i, size in enumerate(SIZES) for lr in (1e-3, 1e-2) for seed in (0, 1)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["width", "lr", "repeat", "score"])
    frame.to_csv("foreign.csv", index=False)
    words = ["--x", "width", "--y", "score", "--roles", "seed=repeat", "--configuration", "lr", "--where", "lr=1"]
    assert main(["predict", "foreign.csv", *words, "--at", "1.5e8", "--register", "--out", "kept"]) == 0
    new = pd.DataFrame([(1.5e8, 10.0, 0, 0.0), (1.5e8, 1.0, 0, 18.08)], columns=frame.columns)
    pd.concat([frame, new]).to_csv("foreign.csv", index=False)
    (path,) = (elsewhere / "kept").iterdir()
    capsys.readouterr()
    assert main(["predict", "foreign.csv", "--score", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 18.08


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"x": "params", "y": "psnr", "at": "far", "envelope": [1, 2], "laws": []}']
)
def test_a_register_that_is_none_is_named_and_the_report_written(
    text: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sweep(SIZES), elsewhere / "toy")
    (elsewhere / "toy" / "prediction-psnr-1e+08-abc.json").write_text(text)
    assert main(["report", "toy"]) == 0
    said = capsys.readouterr().out
    assert "0 scored, 0 awaited, 1 that cannot be scored" in said
    assert "prediction-psnr-1e+08-abc.json: not" in said and "expected what --register wrote" in said


def add(
    client: MlflowClient, root: Path, name: str, frame: pd.DataFrame, rate: float = 1e-3, begun: float = 1.0
) -> None:
    """Trials of an experiment, begun at a time in seconds since 1970; by default before every registration."""
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, str(root / "artifacts" / name))
    for row in frame.to_dict("records"):
        tags = {"drorae.kind": "trial", "drorae.config_hash": str(row["config_hash"]) + name}
        tags |= {"drorae.status": "finished"}
        run = client.create_run(experiment, start_time=round(1000 * begun), tags=tags).info.run_id
        settings = {"fusion.variant": "energy", "phase2.lr": rate, "seed": row["seed"]}
        params = [Param(key, str(value)) for key, value in settings.items()]
        params.append(Param("fusion.expert_hidden_dim", str(row["expert_hidden_dim"])))
        numbers = [Metric(key, float(row[key]), 0, 0) for key in ("fusion_params", "psnr", "eval_images")]
        client.log_batch(run, numbers, params)
        client.set_terminated(run)


@pytest.fixture
def server(new_store: Callable[[Path], str], elsewhere: Path) -> tuple[MlflowClient, Path]:
    """Two sweeps of six sizes, of each of which a prediction is registered."""
    root = elsewhere / "runs"
    root.mkdir()
    client = MlflowClient(new_store(root))
    for name in ("first", "second"):
        add(client, root, name, sweep(SIZES, error=float(len(name))))
        assert main(["predict", f"mlflow:{name}", "--y", "psnr", "--at", "1.5e8", "--register"]) == 0
    return client, root


@pytest.mark.slow
def test_a_server_s_record_is_over_all_its_sweeps(
    server: tuple[MlflowClient, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    client, root = server
    add(client, root, "first", sweep(np.array([1.5e8]), error=5.0))
    # A run of another learning rate is something else.
    add(client, root, "other", sweep(np.array([1.5e8]), error=6.0), rate=1e-2)
    capsys.readouterr()
    assert main(["report", "mlflow:first"]) == 0
    said = capsys.readouterr().out
    assert "registered predictions: 1 scored, 0 awaited" in said and "calibration: 1 of 1" in said
    assert "all sweeps: 1 scored, 1 awaited" in said
    assert "calibration over all 2 sweeps of this tracking server: 1 of 1" in said
    assert "1 of 1 inside their 95% interval" in (root / "first" / "law" / "report.html").read_text()

    # A plan's sweep has an experiment of its own; its runs begin after the second of the registration.
    add(client, root, "next", sweep(np.array([1.5e8]), error=16.0), begun=time.time() + 2)
    write(sweep(SIZES, error=6.0), root / "second")
    assert main(["report", "runs/second"]) == 0
    said = capsys.readouterr().out
    assert "registered predictions: 1 scored, 0 awaited" in said and "outside by" in said
    assert "calibration over all 2 sweeps of this tracking server: 1 of 2" in said


@pytest.mark.slow
def test_a_sweep_ends_with_the_record(server: tuple[MlflowClient, Path]) -> None:
    client, root = server
    words = ["--y", "psnr", "--at", "1.6e8", "--register", "--out", "runs/first/kept"]
    frame = sweep(SIZES, error=5.0)
    write(frame, root / "first")
    assert main(["predict", "runs/first", *words]) == 0
    new = sweep(np.array([1.5e8, 1.6e8]), error=5.0)
    add(client, root, "first", new)
    write(pd.concat([frame, new]), root / "first")
    uri = f"sqlite:///{root}/mlflow.db"
    outcome = SweepOutcome(root / "first", root / "first" / "trials.csv", {"finished": 8}, "", uri)
    law = _fit(SweepSpec("first", PRESETS["smoke"]), outcome)
    assert law is not None and "registered predictions: 2 scored, 0 awaited" in law.text
    kept = json.loads((root / "first" / "law" / "predictions.json").read_text())
    assert (kept["own"]["registered"], kept["all_sweeps"]["registered"]) == (2, 3)

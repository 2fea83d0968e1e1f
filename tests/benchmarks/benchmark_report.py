"""How long `drorae fit --out` takes for many runs, from a CSV and from MLflow.

    python tests/benchmarks/benchmark_report.py [--runs RUNS]

Makes 2000 runs (10 sizes, seeds, one config of 60 fields, 12 metrics each), writes them as a CSV and, by the
MLflow client's bulk interface, into an SQLite store, then runs the command on either, in turn, as a process of its own.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from alternate import COMMAND, alternate, arguments, record

from drorae.config import PRESETS, flatten

METRICS = ("psnr", "ssim", "l1", "rfd_dinov2", "rfd_effnet2", "train_seconds", "eval_seconds", "device_seconds")
FITTED = ("psnr", "ssim", "rfd_dinov2", "rfd_effnet2")


def table(count: int) -> pd.DataFrame:
    """Synthetic trials."""
    rng = np.random.default_rng(0)
    hidden = np.resize([8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096], count)
    frame = pd.DataFrame({"config_hash": [f"{i:012x}" for i in range(count)], "variant": "energy"})
    frame["expert_hidden_dim"], frame["num_layers"] = hidden, 12
    frame["seed"] = np.arange(count) // 10
    frame["fusion_params"] = hidden * 9216 + 60_000
    for name in METRICS:
        frame[name] = 20 + 2 * np.log10(hidden) + rng.normal(0, 0.5, count)
    return frame.assign(eval_images=50_000, status=np.where(rng.uniform(size=count) < 0.98, "finished", "failed"))


def fill(frame: pd.DataFrame, uri: str) -> None:
    """One MLflow run per row, in experiment `many`."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("many")
    config = flatten(PRESETS["quickstart"])
    for row in frame.to_dict("records"):
        tags = {"drorae.kind": "trial", "drorae.config_hash": row["config_hash"], "drorae.status": row["status"]}
        run = client.create_run(experiment, tags={**tags, "mlflow.runName": row["config_hash"]}).info.run_id
        changed = {"fusion.expert_hidden_dim": row["expert_hidden_dim"], "fusion.num_layers": 12, "seed": row["seed"]}
        params = [Param(name, str(value)) for name, value in (config | changed).items()]
        values = {name: row[name] for name in (*METRICS, "fusion_params", "eval_images")} | {"num_layers": 12}
        metrics = [Metric(name, float(value), 0, 0) for name, value in values.items()]
        client.log_batch(run, metrics=metrics, params=params, tags=[RunTag("drorae.reason", "")])
        client.set_terminated(run, "FAILED" if row["status"] == "failed" else "FINISHED")


def main() -> None:
    """Runs the comparison and records it."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, uri = Path(folder) / "runs.csv", f"sqlite:///{folder}/mlflow.db"
        frame = table(options.runs)
        frame.to_csv(path, index=False)
        fill(frame, uri)

        def fit(*source: str) -> None:
            command = [*COMMAND, "fit", *source, "--y", *FITTED, "--out", f"{folder}/law"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        things = {"CSV": partial(fit, str(path)), "MLflow": partial(fit, "mlflow:many", "--tracking-uri", uri)}
        found = alternate(f"fit of {options.runs} runs", things, rounds=options.rounds, warm_up=False)
        size = (Path(folder) / "law" / "report.html").stat().st_size / 1e6
    record("report", [found], options.out, f"The page has {size:.1f} MB.")


if __name__ == "__main__":
    main()

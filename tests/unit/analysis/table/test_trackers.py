"""Tables as trackers export them, read with their own names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.inference.analysis import analyse
from analysis.table.columns import arrange
from analysis.table.selection import select
from analysis.table.trackers import adopt, is_seed, plain, status_of
from drorae.errors import UserError

SIZES = np.repeat(np.geomspace(1e5, 3e7, 6), 2)
RFID = 2 - 0.1 * np.log10(SIZES) + np.random.default_rng(0).normal(0, 0.01, 12)
SEEDS = [0, 1] * 6


def exports() -> dict[str, tuple[pd.DataFrame, str, str, str]]:
    """Per tracker the table, its columns of size and metric, and its word for a run that broke."""
    times, states = pd.date_range("2026-01-01", periods=12, freq="h"), ["finished"] * 12
    wandb = {"Name": [f"gentle-{i}" for i in range(12)], "State": states, "Created": times, "Runtime": range(60, 72),
             "width": SIZES, "random_seed": SEEDS, "Notes": "-", "_step": range(12), "rfid": RFID}  # fmt: skip
    prefixed = {"Name": wandb["Name"], "State": states, "config.width": SIZES, "config.seed": SEEDS,
                "summary.rfid": RFID, "summary._runtime": range(12)}  # fmt: skip
    ui = {"Start Time": times, "Duration": ["1.1min", "1.2min"] * 6, "Run ID": [f"{i:x}" * 4 for i in range(12)],
          "Name": wandb["Name"],
          "Source Type": "LOCAL", "Source Name": "train.py", "User": "me", "Status": "FINISHED", "width": SIZES,
          "seed": SEEDS, "rfid": RFID}  # fmt: skip
    search = {"run_id": [f"r{i}" for i in range(12)], "experiment_id": "1", "status": "FINISHED", "artifact_uri": times,
              "start_time": times, "end_time": times, "metrics.rfid": RFID, "metrics.loss": RFID * 2,
              "params.width": SIZES.astype(str), "params.seed": list(map(str, SEEDS)),
              "tags.mlflow.runName": wandb["Name"]}  # fmt: skip
    neptune = {"sys/id": [f"RUN-{i}" for i in range(12)], "sys/state": "Inactive", "parameters/width": SIZES,
               "parameters/seed": SEEDS, "metrics/rfid": RFID, "monitoring/cpu": RFID,
               "sys/failed": False}  # fmt: skip
    return {
        "wandb": (pd.DataFrame(wandb), "width", "rfid", "crashed"),
        "wandb prefixed": (pd.DataFrame(prefixed), "config.width", "summary.rfid", "killed"),
        "mlflow ui": (pd.DataFrame(ui), "width", "rfid", "FAILED"),
        "search_runs": (pd.DataFrame(search), "params.width", "metrics.rfid", "RUNNING"),
        "neptune": (pd.DataFrame(neptune), "parameters/width", "metrics/rfid", "Active"),
    }


@pytest.mark.parametrize("tracker", exports())
def test_exports_are_read_with_their_own_names(tracker: str) -> None:
    frame, x, y, broken = exports()[tracker]
    wanted = analyse(pd.DataFrame({"params": SIZES, "seed": SEEDS, "rfid": RFID}), "params", "rfid").line
    for names in ((x, y), ("width", "rfid")):
        found = analyse(frame, *names).line
        assert found.sample.n == 6 and found.seed_sd == pytest.approx(wanted.seed_sd)
        assert found.slope_ci95 == pytest.approx(wanted.slope_ci95)
    status = next(name for name in frame.columns if str(name).lower() in ("state", "status", "sys/state"))
    frame[status] = [broken, *frame[status][1:]]
    assert [reason for _, reason in select(frame, x, y).excluded] == [f"status {broken.lower()}"]


@pytest.mark.parametrize(
    "word", ["finished", "COMPLETED", "Succeeded", "FINISHED", "complete", "success", "TERMINATED"]
)
def test_words_for_done(word: str) -> None:
    assert status_of(word) == "finished"


@pytest.mark.parametrize(
    "word", ["crashed", "Killed", "FAILED", "running", "PREEMPTED", "timed out", "Cancelled", "queued"]
)
@pytest.mark.parametrize("column", ["State", "STATUS", "run_status", "state"])
def test_words_for_not_done_leave_a_row_out(word: str, column: str) -> None:
    frame = pd.DataFrame({"params": SIZES, "seed": SEEDS, "rfid": RFID, column: ["Finished"] * 11 + [word]})
    assert len(select(frame, "params", "rfid").used) == 11


def test_a_status_that_is_not_used_is_named() -> None:
    frame = pd.DataFrame({"params": SIZES, "seed": SEEDS, "rfid": RFID, "exit": ["done"] * 11 + ["crashed"]})
    told = {item.code: item.message for item in analyse(frame, "params", "rfid").cautions}
    assert "exit looks like a status and was not used" in told["unused-status"]
    assert "--roles status=exit" in told["unused-status"]
    assert len(select(arrange(frame, roles={"status": "exit"}), "params", "rfid").used) == 11


@pytest.mark.parametrize(
    "name", ["Seed", "seed", "random_seed", "seed_everything", "params.seed", "config.random_seed", "parameters/seed",
             "SEED", "trainer.seed", "manual_seed"],
)  # fmt: skip
def test_a_seed_by_any_name(name: str) -> None:
    frame = pd.DataFrame({"params": SIZES, name: SEEDS, "rfid": RFID})
    assert select(frame, "params", "rfid").seeds == tuple(map(str, SEEDS))
    assert is_seed(name) or name == "trainer.seed"
    assert plain("params.a.b") == "a.b" and "seed" not in adopt(frame.rename(columns={name: "images.seed"})).columns


HISTORY = [(f"run{i}", size, step, 2 - 0.1 * np.log10(size) + 1 / step) for i, size in enumerate(SIZES[::2])
           for step in (1, 2, 3)]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "x", "seed"),
    [
        (("run_id", "params", "step", "rfid"), "params", None),
        (("Name", "params", "_step", "rfid"), "params", None),
        (("sys/id", "params", "trainer/global_step", "rfid"), "params", 0),
        (("other", "params", "Step", "rfid"), "params", 0),
        (("other", "params", "epoch", "rfid"), "params", None),
        (("run_id", "params", "global_step", "rfid"), "global_step", None),
        (("run_id", "params", "epoch", "rfid"), "epoch", None),
    ],
)
def test_steps_of_a_run_are_neither_sizes_nor_seeds(names: tuple[str, ...], x: str, seed: int | None) -> None:
    frame = pd.DataFrame(HISTORY, columns=list(names))
    if seed is not None:
        frame["seed"] = seed
    with pytest.raises(UserError, match="one row per run") as caught:
        select(frame, x, "rfid")
    assert "\n" not in str(caught.value)
    if x == "params":
        assert len(select(arrange(frame, [f"{names[2]}=3"]), x, "rfid").x) == 6


def test_a_tensorboard_export_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Wall time": np.arange(9.0), "Step": range(9), "Value": np.arange(9.0) ** 2})
    with pytest.raises(UserError, match="TensorBoard"):
        select(frame, "Step", "Value")

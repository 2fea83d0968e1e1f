"""Tables of runs: what is read, what is left out and why, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.report.mlflow import write_fits
from analysis.report.outcome import fit_table
from analysis.table.columns import arrange
from analysis.table.design import check_axes, check_design
from analysis.table.files import read_table
from analysis.table.mlflow import read_mlflow
from analysis.table.selection import select
from drorae.errors import UserError


def trials(**columns: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "config_hash": [f"hash{i}" for i in range(6)],
            "expert_hidden_dim": [8, 16, 32, 64, 128, 256],
            "fusion_params": [1e5, 2e5, 4e5, 8e5, 16e5, 32e5],
            "psnr": [20.0, 20.4, 20.9, 21.2, 21.8, 22.1],
            "eval_images": [1500] * 6,
            "status": ["finished"] * 6,
        }
    )
    return frame.assign(**columns)  # type: ignore[arg-type]


def test_csv_and_parquet_agree_and_hashes_stay_text(tmp_path: Path) -> None:
    frame = trials(config_hash=["12345678e901", *[f"00{i}" for i in range(5)]])
    frame.to_csv(tmp_path / "trials.csv", index=False)
    frame.to_parquet(tmp_path / "trials.parquet")
    from_csv, from_parquet = read_table(tmp_path / "trials.csv"), read_table(tmp_path / "trials.parquet")
    assert list(from_csv["config_hash"]) == list(frame["config_hash"])
    np.testing.assert_array_equal(
        select(from_csv, "params", "psnr").x, select(from_parquet, "capacity", "psnr").used["fusion_params"]
    )


def test_every_exclusion_is_named() -> None:
    frame = pd.concat([trials(), trials()], ignore_index=True)
    frame["config_hash"] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a", "k", None]
    frame["reason"] = [None, "cut by ASHA at epoch 2", *[None] * 10]
    statuses = ["pruned", "diverged", "unconverged", "failed", "running"]
    frame["status"] = ["finished", *statuses, *["finished"] * 6]
    frame.loc[6, "fusion_params"] = 0.0
    frame.loc[7, "psnr"] = np.inf
    frame.loc[8, "fusion_params"] = np.nan
    selection = select(frame, "params", "psnr")
    assert selection.labels == ("row 1 (a)", "row 11 (k)", "row 12")
    assert dict(selection.excluded) == {
        "row 2 (b)": "status pruned: cut by ASHA at epoch 2",
        "row 3 (c)": "status diverged",
        "row 4 (d)": "status unconverged",
        "row 5 (e)": "status failed",
        "row 6 (f)": "status running",
        "row 7 (g)": "fusion_params is 0, which has no logarithm",
        "row 8 (h)": "psnr is inf, not finite",
        "row 9 (i)": "fusion_params is missing",
        "row 10 (a)": "same config_hash as row 1 (a)",
    }
    assert "row 4 (d)" in select(frame, "params", "psnr", include=["unconverged"]).labels
    assert "row 7 (g)" in select(frame, "params", "psnr", log=False).labels


def test_aliases_prefer_the_column_of_that_name() -> None:
    assert select(trials(), "params", "psnr").x_column == "fusion_params"
    assert select(trials(fusion_params_paper=range(1, 7)), "params", "psnr").x_column == "fusion_params_paper"
    assert select(trials(params=range(1, 7)), "params", "psnr").x_column == "params"
    assert select(trials(), "capacity", "psnr").x_column == "expert_hidden_dim"


def test_roles_units_and_conditions() -> None:
    frame = trials(rep=[0, 1, 0, 1, 0, 1], millions=[0.1, 0.2, 0.4, 0.8, 1.6, 3.2], design=["a"] * 5 + ["b"])
    roles = {"seed": "rep", "variant": "design"}
    ready = arrange(frame, ["variant=a", "capacity=8,16.0,32,64"], roles, {"millions": "M"})
    assert list(ready["seed"]) == [0, 1, 0, 1]
    np.testing.assert_allclose(ready["millions"], ready["fusion_params"])
    assert ready.attrs["where"] == ["variant=a (5 of 6 rows)", "capacity=8,16.0,32,64 (4 of 5 rows)"]
    late = arrange(frame, ["capacity=128,256"])
    assert select(late, "params", "psnr").labels == ("row 5 (hash4)", "row 6 (hash5)"), "rows keep their numbers"
    assert "rep" in frame.columns, "the table given is left as it was"


def test_copies_are_left_out_where_rows_state_their_seed() -> None:
    frame = pd.concat([trials(seed=0, config_hash=None)] * 2, ignore_index=True)
    assert dict(select(frame, "params", "psnr").excluded)["row 7"] == "a copy of row 1"
    # Without seeds two equal rows may be two runs that rounding made equal: the paper's pooled table has one such.
    assert len(select(frame.drop(columns="seed"), "params", "psnr").x) == 12
    frame["run_id"] = ["abcdefghij", *"bcdef", "abcdefghij", *"ghijk"]
    assert dict(select(frame, "params", "psnr").excluded)["row 7 (abcdefgh)"] == "same run_id as row 1 (abcdefgh)"


def test_bad_cells_are_quoted() -> None:
    frame = trials(psnr=["20.0", "n/a", "-inf", "", "21.8", "22.1"], eval_images=[1500] * 5 + [None])
    assert [reason for _, reason in select(frame, "params", "psnr").excluded] == [
        "psnr is 'n/a', not a number",
        "psnr is -inf, not finite",
        "psnr is missing",
        "eval_images is missing, and other rows have it",
    ]


def test_configurations_differ_in_more_than_seed_and_missing_cells_are_cells() -> None:
    frame = trials(fusion_params=[1e5, 1e5, 2e5, 2e5, 4e5, 4e5], expert_hidden_dim=8, seed=[0, 1] * 3, variant=None)
    chosen = select(frame, "params", "psnr")
    assert list(chosen.configurations) == [0, 0, 1, 1, 2, 2]
    frame["phase2.lr"] = [1e-3, 1e-4] * 3
    assert list(select(frame, "params", "psnr").configurations) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("columns", "unit", "message"),
    [
        ({"fusion_params": [1e5] * 3 + [2e5] * 3}, "configuration", "two values only"),
        ({"fusion_params": range(1, 7), "seed": range(1, 7)}, "configuration", "numbers repeats"),
        ({"fusion_params": [1e5, 1e5, 2e5, 2e5, 4e5, 4e5], "seed": [0, 1] * 3, "expert_hidden_dim": 8}, "row",
         "seeds are repeats"),
        ({"fusion_params": [1e5, 1e5, 2e5, 2e5, 4e5, 4e5], "seed": [0, 1] * 3, "expert_hidden_dim": 8},
         "configuration", "3 configurations .6 runs, 0 rows left out.; a law of 2"),
        ({"psnr": 20.0}, "configuration", "20 in every run"),
    ],
)  # fmt: skip
def test_designs_that_carry_no_law(columns: dict, unit: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_design(select(trials(**columns), "params", "psnr"), unit)


def test_axes_that_repeat_each_other() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=20), rng.normal(size=20)
    check_axes({"a": one, "b": two, "c": one + 0.1 * two**2})
    with pytest.raises(UserError, match="a: collinear with b and c"):
        check_axes({"a": 3 - one, "b": two, "c": one + 2 * two})
    with pytest.raises(UserError, match="b: the axis takes two values only"):
        check_axes({"a": one, "b": np.sign(two)})


@pytest.mark.parametrize(
    ("change", "x", "y", "include", "message"),
    [
        ({}, "params", "psrn", (), "psrn: no such column; did you mean psnr"),
        ({}, "layers", "psnr", (), "columns: config_hash, expert_hidden_dim"),
        ({"eval_images": [1500] * 5 + [3000]}, "params", "psnr", (), r"different eval_images, 1500 \(5 rows\), 3000"),
        ({"status": ["failed"] * 6}, "params", "psnr", (), "none of 6 rows can be used .6 x status failed"),
        ({"psnr": ["good"] * 6}, "params", "psnr", (), "no cell is a number"),
        ({}, "params", "psnr", ("broken",), "no such status; statuses: finished"),
    ],
)
def test_bad_tables(change: dict, x: str, y: str, include: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(trials(**change), x, y, include)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("a,b\n")
    (tmp_path / "noise.parquet").write_bytes(b"\x00\x01")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    (tmp_path / "notes.txt").write_text("a")
    for name in ("none.csv", "empty.csv", "head.csv", "noise.parquet", "binary.csv", "notes.txt", "."):
        with pytest.raises(UserError, match="expected") as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_mlflow_round_trip(tmp_path: Path) -> None:
    """Trials in, fit written back, and once more without a second analysis run."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(UserError, match="no such MLflow store"):
        read_mlflow(uri, "sweep")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"drorae.kind": "sweep"}).info.run_id
    frame = trials()
    for i, row in frame.iterrows():
        tags = {"drorae.kind": "trial", "drorae.config_hash": row["config_hash"], "mlflow.parentRunId": parent}
        run = client.create_run(experiment, tags=tags | {"drorae.status": "finished"}).info.run_id
        client.log_param(run, "fusion.expert_hidden_dim", row["expert_hidden_dim"])
        client.log_param(run, "phase2.lr", 1e-3)
        client.log_param(run, "seed", 0)
        for name in ("fusion_params", "psnr", "eval_images"):
            client.log_metric(run, name, float(row[name]) if (i, name) != (4, "psnr") else np.inf)
        if i != 5:
            client.set_terminated(run)
    read = read_mlflow(uri, "sweep")
    assert sorted(read["config_hash"]) == sorted(frame["config_hash"])
    assert read.set_index("config_hash")["status"]["hash5"] == "running"
    outcome = fit_table(read, "params", ["psnr"], out=tmp_path / "report")
    assert outcome.analyses[0].line.n == 4
    reasons = {reason for _, reason in outcome.analyses[0].selection.excluded}
    assert reasons == {"status running", "psnr is inf, not finite"}

    first = write_fits(outcome.analyses, outcome.paths, uri, "sweep", parent)
    assert write_fits(outcome.analyses, outcome.paths, uri, "sweep", parent) == first
    stored = client.get_run(first[0])
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["slope"] == pytest.approx(outcome.analyses[0].line.slope)
    assert stored.data.tags["mlflow.parentRunId"] == parent
    assert {"law.json", "law.csv", "law.png", "report.html"} <= {item.path for item in client.list_artifacts(first[0])}
    assert len(read_mlflow(uri, parent_run=parent)) == 6
    # Without a filter the tables are read, with one MLflow is asked: the same runs either way.
    for source in ({"experiment": "sweep"}, {"parent_run": parent}):
        asked = read_mlflow(uri, **source, filter_string="attributes.run_id != 'none'")
        pd.testing.assert_frame_equal(read_mlflow(uri, **source), asked)
    narrowed = read_mlflow(uri, "sweep", filter_string="metrics.psnr > 21 and params.`phase2.lr` = '0.001'")
    assert sorted(narrowed["psnr"]) == [21.2, 22.1, np.inf]
    assert list(narrowed["run_url"]) == [
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}" for run in narrowed["run_id"]
    ]
    with pytest.raises(UserError, match="MLflow does not understand it") as caught:
        read_mlflow(uri, "sweep", filter_string="psnr above 21")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no trials that match"):
        read_mlflow(uri, "sweep", filter_string="metrics.psnr < 0")
    foreign = client.create_experiment("foreign")
    client.set_terminated(client.create_run(foreign).info.run_id)
    client.create_run(foreign)
    assert sorted(read_mlflow(uri, "foreign")["status"]) == ["finished", "running"]
    with pytest.raises(UserError, match="experiments there: Default, foreign, sweep"):
        read_mlflow(uri, "swep")
    with pytest.raises(UserError, match="did not answer"):
        read_mlflow(uri, parent_run="0" * 32)

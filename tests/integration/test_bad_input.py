"""Bad input, one case a kind: exit code 2 and one line that says what was wrong and what would mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from drorae.commands.main import main

Change = Callable[[pd.DataFrame], pd.DataFrame | str | bytes | None]


def good() -> pd.DataFrame:
    """Six sizes, two seeds each: what every case spoils in its own way."""
    sizes = np.repeat([1e6, 3e6, 1e7, 3e7, 1e8, 3e8], 2)
    noise = np.random.default_rng(0).normal(0, 0.01, 12)
    return pd.DataFrame(
        {
            "params": sizes, "rfid": 1 - 0.06 * np.log10(sizes) + noise, "seed": [0, 1] * 6,
            "variant": "energy", "eval_images": 50_000, "status": "finished",
        }
    )  # fmt: skip


def put(**columns: object) -> Change:
    return lambda frame: frame.assign(**columns)  # type: ignore[arg-type]


def first(count: int) -> Change:
    return lambda frame: frame.iloc[:count]


def text(content: str | bytes) -> Change:
    return lambda frame: content


def halves(one: object, other: object) -> list[object]:
    return [one] * 6 + [other] * 6


class Case(NamedTuple):
    kind: str
    change: Change
    says: str
    arguments: str = "fit runs.csv --x params --y rfid"


FIT = "fit runs.csv --x params --y rfid"
CASES = [
    # The file.
    Case("no file", lambda frame: None, "no such file"),
    Case("a folder that is no sweep", lambda frame: None, "no trials.csv", "fit . --y rfid"),
    Case("another kind of file", text("a"), "expected a name ending in .csv, .tsv", "fit runs.txt --y rfid"),
    Case("empty file", text(""), "expected one header line"),
    Case("header alone", text("params,rfid\n"), "no rows"),
    Case("not text", text(bytes(range(128, 256))), "expected one header line"),
    Case("not parquet", text(b"PAR1 and then noise"), "not readable as a table", "fit runs.parquet --y rfid"),
    Case("semicolons and decimal commas", text("params;rfid\n1;0,5\n2;0,7\n"), "write decimals with a point"),
    Case("tabs and a row too long", text("params\trfid\n1\t2\t3\n"), "line 2 has 3 cells under 2 column names"),
    Case("a row too long", text("params,rfid\n1,2\n2,0,5\n"), "line 3 has 3 cells under 2 column names"),
    Case("a name twice", text("params,rfid,rfid\n1,2,3\n"), "two columns are called rfid"),
    # Columns and options.
    Case("x misspelt", put(), "did you mean params", "fit runs.csv --x parms --y rfid"),
    Case("y misspelt", put(), "did you mean rfid", "fit runs.csv --y rfod"),
    Case("no y", put(), "at least one metric", "fit runs.csv"),
    Case("x for y", put(), "expected a size for x and a metric for y", "fit runs.csv --x rfid --y rfid"),
    Case("y is text", put(rfid="good"), "no cell is a number"),
    Case("x is text", put(params="large"), "no cell is a number"),
    Case("decimal commas", put(rfid=[f"0,{500 + i}" for i in range(12)]), "write decimals with a point"),
    Case("unknown status asked for", put(), "statuses: finished", f"{FIT} --include done"),
    Case("unknown role", put(), "roles: id, seed", f"{FIT} --roles colour=variant"),
    Case("role of no column", put(), "did you mean seed", f"{FIT} --roles seed=seeds"),
    Case("role taken", put(rep=0), "has a column seed already", f"{FIT} --roles seed=rep"),
    Case("unknown unit", put(), "units: 1, K, M", f"{FIT} --units params=furlong"),
    Case("half a condition", put(), "expected COLUMN=VALUE", f"{FIT} --where variant"),
    Case("a condition nothing meets", put(), "variant is energy", f"{FIT} --where variant=mean"),
    Case("a filter on a file", put(), "narrow a table with --where", f"{FIT} --filter seed=1"),
    Case("a store that is not there", put(), "no such MLflow store", "fit mlflow:runs --y rfid"),
    # Rows.
    Case("all failed", put(status="FAILED"), "12 x status failed"),
    Case("all running", put(status="running"), "expected finished runs"),
    Case("all pruned", put(status="pruned", reason="cut by ASHA"), "12 x status pruned: cut by ASHA"),
    Case("no value", put(rfid=np.nan), "12 x rfid is missing"),
    Case("infinite values", put(rfid=np.inf), "12 x rfid is inf, not finite"),
    Case("sizes without a logarithm", put(params=-1.0), "-1, which has no logarithm"),
    Case("one run copied", lambda frame: frame.iloc[[0] * 12], "expected different sizes"),
    # What was measured.
    Case("mixed sample counts", put(eval_images=halves(10_000, 50_000)), "--where|where eval_images="),
    Case("mixed counts of one metric", put(rfid_n=halves(10_000, 50_000)), "different rfid_n, 10000 (6 rows)"),
    Case("mixed metrics", put(metric=halves("rfid", "psnr")), "rows of different metric"),
    Case("mixed extractors", put(extractor=halves("inception", "dinov2")), "rows of different extractor"),
    Case("mixed images", put(**{"images.size": halves(32, 256)}), "rows of different images.size"),
    Case("mixed evaluation", put(**{"evaluation.effnet_size": halves(64, 224)}), "measure different things"),
    # The design.
    Case("one size", put(params=1e6), "all runs have params = 1e+06"),
    Case("two sizes", put(params=halves(1e6, 1e7), expert_hidden_dim=np.arange(12) // 2), "two values only"),
    Case("three sizes, many seeds", lambda frame: frame.iloc[:6], "run more sizes, not more seeds"),
    Case("the same value everywhere", put(rfid=0.5), "rfid is 0.5"),
    Case("the seed as a size", put(seed=range(12)), "no size", "fit runs.csv --x seed --y rfid --law linear"),
    Case("a copy of the seed as a size", put(seed=range(1, 13), params=range(1, 13)), "numbers repeats"),
    Case("seeds counted as sizes", put(), "seeds are repeats, not sizes", f"{FIT} --unit row"),
    Case("settings counted as seeds", put(lr=[0.1, 0.01] * 6), "--configuration lr"),
    Case("settings without seeds", lambda frame: frame.drop(columns="seed").assign(lr=[0.1, 0.01] * 6), "--best-of lr"),
    Case("steps of runs", put(run_id=halves("a", "b"), step=range(12)), "expected one row per run"),
    # Where results go.
    Case("a report where a file is", put(), "needs a folder", f"{FIT} --out runs.csv"),
    Case("tracking a file", put(), "expected a source such as mlflow:", f"{FIT} --track"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.kind for case in CASES])
def test_bad_input_is_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = case.change(good())
    path = Path(case.arguments.split()[1])
    if isinstance(content, pd.DataFrame):
        content.to_csv("runs.csv", index=False)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.rglob("*"))
    assert main(case.arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err), captured.err
    assert any(part in captured.err for part in case.says.split("|")), captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_unspoilt_table_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good().to_csv("runs.csv", index=False)
    assert main(FIT.split()) == 0

"""What sweep.json says, written by this version and by earlier ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from begun import BEGUN, read_tree
from done_trials import spec_of

from drorae.config import Runtime
from drorae.errors import UserError
from sweeps.folder.sweep import SCHEMA, RunAddress, SweepRecord, in_trials, read_record
from sweeps.resources import Resources, Rule
from sweeps.settings import PREPARE, RUN_TRIAL, Asha, Settings
from sweeps.spec import Axis, Range, Search

SETTINGS = Settings(
    Runtime(threads=2), Resources(gpus=0.5, rules=(Rule(Axis("capacity", (64,)), cpus=4.0),)), 1, Asha(2), 1.5,
    "a:b", "c:d",
)  # fmt: skip
SEARCH = Search((Range("lr", 1e-4, 1e-2, log=True), Range("variant", values=("mean", "energy"))), trials=3)


@pytest.mark.parametrize(
    "record",
    [
        SweepRecord("id", spec_of("mine"), ("a", "b")),
        SweepRecord("id", spec_of("mine"), (), SETTINGS, RunAddress("sqlite:///x", "1", "2"), {"old": "new"}),
        SweepRecord("id", replace(spec_of("mine"), search=SEARCH), ("a",), SETTINGS),
    ],
)
def test_a_record_is_read_as_it_was_written(record: SweepRecord, tmp_path: Path) -> None:
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert read_tree(tmp_path)["schema"] == SCHEMA


def test_the_first_version_is_read_and_its_functions_are_found_where_they_are_now() -> None:
    record = read_record(BEGUN)
    assert len(record.trials) == 4 and record.former_hashes == {} and record.tracking is not None
    assert record.settings is not None and record.settings.resources.max_concurrent == 1
    assert (record.settings.run_trial, record.settings.prepare) == (RUN_TRIAL, PREPARE)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    SweepRecord("id", spec_of("mine"), ()).write(tmp_path)
    tree = read_tree(tmp_path) | {"schema": SCHEMA + 1, "drorae": "7.0.0"}
    (tmp_path / "sweep.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"sweep.json: written by drorae 7.0.0 .*; use drorae 7.0.0 or newer") as raised:
        read_record(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": "2"}', '{"schema": 2, "id": "x"}'])
def test_a_damaged_record_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match="sweep.json: not readable .*--name") as raised:
        read_record(tmp_path)
    assert "\n" not in str(raised.value)


def test_patterns_reach_into_every_trial() -> None:
    assert in_trials(("result.json", "*.pt")) == ("trials/*/result.json", "trials/*/*.pt")

"""Registered predictions: which runs score them, which were there before, and what a count of hits can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference.analysis import Analysis, analyse
from analysis.inference.predict import constants, register, score
from analysis.inference.record import (
    AwaitedError,
    Calibration,
    Entry,
    Record,
    arrived,
    calibration,
    judged,
    load,
    runs_there,
)  # fmt: skip
from analysis.table.columns import arrange
from analysis.table.selection import Selection, select
from drorae.errors import UserError

SIZES = np.geomspace(1e5, 1e8, 6)
AT = 1.5e8


def table(**columns: object) -> pd.DataFrame:
    frame = pd.DataFrame({"params": SIZES, "rfid": [1.0, 0.9, 0.81, 0.7, 0.6, 0.5], "seed": 0, "variant": "energy"})
    return frame.assign(**columns)  # type: ignore[arg-type]


def registered(frame: pd.DataFrame, at: float = AT, seeds: int = 1) -> dict[str, Any]:
    found = analyse(frame, "params", "rfid")
    there = runs_there(frame, found.selection, at)
    return register(found.comparison, found.predict(at, seeds=seeds), constants(found.selection), None, there)


def later(frame: pd.DataFrame, values: list[float], at: float = AT, **columns: object) -> Selection:
    new = pd.DataFrame({"params": at, "rfid": values, "seed": range(10, 10 + len(values)), "variant": "energy"})
    joined = pd.concat([frame, new.assign(**columns)], ignore_index=True)  # type: ignore[arg-type]
    return select(joined, "params", "rfid")


def test_the_mean_of_as_many_new_runs_as_were_predicted_is_scored() -> None:
    frame = table()
    assert arrived(registered(frame), later(frame, [0.4, 0.9])) == 0.4
    of_three = registered(frame, seeds=3)
    assert arrived(of_three, later(frame, [0.4, 0.5, 0.6, 9.0])) == pytest.approx(0.5)
    with pytest.raises(AwaitedError, match="2 new runs of that size; expected the 3 runs"):
        arrived(of_three, later(frame, [0.4, 0.5]))
    with pytest.raises(AwaitedError, match="no run with params within 1%"):
        arrived(of_three, later(frame, [0.4], 3e8))


def test_runs_of_one_configuration_are_averaged_never_of_two() -> None:
    frame = table(**{"phase2.lr": 1e-3})
    record = registered(frame, seeds=2)
    record["of"].pop("phase2.lr")
    mixed = later(frame, [0.4, 0.7, 0.5, 0.8], **{"phase2.lr": [1e-3, 1e-4, 1e-3, 1e-4]})
    assert arrived(record, mixed) == pytest.approx(0.45)


@pytest.mark.parametrize("identity", ["config_hash", "run_id", None])
def test_runs_that_were_there_are_no_score(identity: str | None) -> None:
    names: dict[str, object] = {identity: [f"a{i}" for i in range(6)]} if identity else {}
    frame = table(**names)
    at = float(SIZES[3])
    record = registered(frame, at)
    assert [value for _, value in record["there"]] == [0.7]
    with pytest.raises(AwaitedError, match="0 new runs of that size"):
        arrived(record, select(frame, "params", "rfid"))
    new: dict[str, object] = {identity: ["b"]} if identity else {}
    assert arrived(record, later(frame, [0.65], at, **new)) == 0.65
    # A run is known by its name where it has one, though it was measured again.
    again = frame.assign(rfid=frame["rfid"] + 0.001)
    if identity:
        with pytest.raises(AwaitedError):
            arrived(record, select(again, "params", "rfid"))


def test_a_run_of_another_status_had_its_value_too() -> None:
    more = pd.DataFrame([{"params": AT, "rfid": 0.45, "seed": 0, "variant": "energy", "status": "unconverged"}])
    frame = pd.concat([table(status="finished"), more], ignore_index=True)
    record = registered(frame)
    assert record["there"] == [["", 0.45]]
    with pytest.raises(AwaitedError):
        arrived(record, select(frame.assign(status="finished"), "params", "rfid"))


def test_older_records_are_scored_where_no_run_can_have_been_there() -> None:
    frame = table()
    beyond, within = ({**registered(frame, at), "version": 2} for at in (AT, float(SIZES[3])))
    del beyond["there"]
    assert arrived(beyond, later(frame, [0.4])) == 0.4
    with pytest.raises(UserError, match="did not keep which runs"):
        arrived(within, later(frame, [0.7], float(SIZES[3])))


@pytest.mark.parametrize(
    ("columns", "new", "message"),
    [
        ({}, {"variant": "mean"}, "of variant energy, and runs of that size have variant mean"),
        ({"phase2.lr": 1e-3}, {"phase2.lr": 1e-4}, "of phase2.lr 0.001, and runs of that size have phase2.lr 0.0001"),
        ({"eval_images": 500}, {"eval_images": 500}, ""),
        ({"encoder.path": "/a"}, {"encoder.path": "/b"}, ""),
        ({"loss": 0.1}, {"loss": 0.2}, ""),
    ],
)
def test_runs_of_something_else_are_no_score(columns: dict[str, object], new: dict[str, object], message: str) -> None:
    frame = table(**columns)
    record = registered(frame)
    if message:
        with pytest.raises(UserError, match=message):
            arrived(record, later(frame, [0.4], **new))
    else:
        assert arrived(record, later(frame, [0.4], **new)) == 0.4


def test_other_runs_of_that_size_do_not_hide_those_that_were_predicted() -> None:
    frame = table()
    found = later(frame, [0.9, 0.4], variant=["mean", "energy"], seed=0)
    assert arrived(registered(frame), found) == 0.4


def test_declared_settings_tell_runs_apart() -> None:
    frame = arrange(table(lr=1e-3), configuration=["lr"])
    record = registered(frame)
    assert record["of"]["lr"] == ["0.001"]
    new = pd.concat([table(lr=1e-3), table(lr=1e-2).iloc[:1].assign(params=AT)], ignore_index=True)
    with pytest.raises(UserError, match="of lr 0.001"):
        arrived(record, select(arrange(new, configuration=["lr"]), "params", "rfid"))


def test_elsewhere_a_run_has_to_say_all_that_was_predicted() -> None:
    record = registered(table(**{"phase2.lr": 1e-3}))
    bare, full = (later(table().iloc[:0], [0.4], **extra) for extra in ({}, {"phase2.lr": 1e-3}))
    assert arrived(record, full, strict=True) == 0.4
    with pytest.raises(UserError, match="do not say that they are what was predicted"):
        arrived(record, bare, strict=True)


@pytest.mark.parametrize(("hits", "count"), [(1, 1), (4, 5), (9, 10), (19, 20), (100, 100)])
def test_the_interval_is_clopper_and_pearson_s(hits: int, count: int) -> None:
    low, high = Calibration(hits, count).interval
    assert low == pytest.approx(stats.beta.ppf(0.025, hits, count - hits + 1))
    assert high == pytest.approx(1.0 if hits == count else stats.beta.ppf(0.975, hits + 1, count - hits))


@pytest.mark.parametrize(
    ("hits", "count", "said"),
    [
        (1, 1, "too few to tell"),
        (4, 4, "too few to tell"),
        (5, 5, "no more miss"),
        (5, 6, "too few to tell"),
        (0, 1, "more miss"),
        (9, 10, "no more miss"),
        (8, 10, "too few to tell"),
        (7, 10, "more miss"),
        (36, 40, "no more miss"),
        (35, 40, "more miss"),
        (80, 80, "fewer miss"),
    ],
)
def test_a_count_says_what_it_can(hits: int, count: int, said: str) -> None:
    assert Calibration(hits, count).verdict.startswith(said)


def test_calibrated_intervals_are_seldom_called_too_narrow() -> None:
    for count in (1, 3, 10, 30, 100):
        chance = sum(
            stats.binom.pmf(hits, count, 0.95)
            for hits in range(count + 1)
            if Calibration(hits, count).verdict.startswith("more")
        )
        assert chance <= 0.0501


def test_the_record_counts_each_prediction_once_and_extrapolations_apart(paper: Analysis) -> None:
    one = register(paper.comparison, paper.predict(2e8))
    again, far = {**one, "date": "later"}, register(paper.comparison, paper.predict(1e10, extrapolate=True))
    scored = [Entry("a", "toy", item, score(item, 0.45)) for item in (one, again, far)]
    missed = Entry("b", "other", {**one, "data_sha256": "x"}, score(one, 9.0))
    waiting = Entry("c", "toy", one, None, "no run there", awaited=True)
    within, beyond = calibration([*scored, missed, waiting]), calibration(scored, trusted=False)
    assert within == Calibration(1, 2) and beyond == Calibration(1, 1)
    record = Record((*scored, waiting), (*scored, missed, waiting))
    lines = record.lines()
    assert lines[0] == "registered predictions: 3 scored, 1 awaited"
    assert any("awaited: no run there" in line for line in lines)
    assert any("calibration: 1 of 1 inside their 95% interval" in line and "too few to tell" in line for line in lines)
    assert any("over all 2 sweeps of this tracking server: 1 of 2" in line for line in lines)
    assert any("extrapolated beyond the horizon: 1 of 1" in line for line in lines)
    tree = record.tree()
    assert tree["own"]["calibration"]["count"] == 1 and tree["all_sweeps"]["calibration"]["hits"] == 1
    assert len(tree["predictions"]) == 5
    assert Record(()).lines() == []


def test_what_cannot_be_scored_says_why(tmp_path: Path) -> None:
    frame = table()
    record = registered(frame)
    newer = judged("file", "toy", {**record, "version": 99}, later(frame, [0.4]))
    assert newer.score is None and not newer.awaited and "not a registered prediction" in newer.why
    waiting = judged("file", "toy", record, select(frame, "params", "rfid"))
    assert waiting.awaited and "awaited: no run with params" in waiting.text
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", '{"x": 1}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="expected what --register wrote"):
            load(tmp_path / name)

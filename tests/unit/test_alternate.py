"""What benchmarks share: turns, medians, ratios, files."""

from __future__ import annotations

import csv
import subprocess
import time
from pathlib import Path

import pytest
from benchmarks.alternate import COMMAND, Comparison, alternate, machine, record, timed


def test_things_take_turns_and_the_first_is_what_others_are_measured_by(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def thing(name: str, seconds: float) -> float:
        done.append(name)
        return seconds

    found = alternate("a case", {"own": lambda: thing("own", 2.0), "other": lambda: thing("other", 5.0)}, rounds=3)
    assert done == ["own", "other", "own", "other", "other", "own", "own", "other"]
    assert found.median("own") == 2.0 and found.ratio("other") == 2.5 and found.ratio("own") == 1.0
    assert "a case: own 2 s (1.00), other 5 s (2.50)" in capsys.readouterr().out


def test_the_clock_is_taken_where_a_thing_returns_nothing() -> None:
    found = alternate("", {"nothing": lambda: None}, rounds=5, warm_up=False)
    assert len(found.seconds["nothing"]) == 5 and 0 < found.median("nothing") < 0.1


def test_a_round_that_was_slow_for_all_changes_no_ratio() -> None:
    assert Comparison("", {"own": [1.0, 10.0, 1.2], "other": [2.0, 20.0, 2.4]}).ratio("other") == pytest.approx(2.0)


def test_a_target_is_met_or_missed() -> None:
    assert Comparison("", {"own": [0.9]}, at_most=1.0).verdict == "at most 1 s"
    assert Comparison("", {"own": [1.1]}, at_most=1.0).verdict == "MISSED: at most 1 s"
    assert Comparison("", {"own": [1.1]}).verdict == ""


def test_what_is_written_names_the_machine_and_every_run(tmp_path: Path) -> None:
    found = Comparison("a case", {"own": [1.0, 2.0, 3.0, 4.0, 5.0], "other": [6.0] * 5}, at_most=4.0)
    record("name", [found], tmp_path / "new", note="What bounds it.")
    text = (tmp_path / "new" / "name.md").read_text()
    assert "| a case | own | 3 | 1 to 5 | 1.00 | at most 4 s |" in text and "| a case | other | 6 |" in text
    assert "What bounds it." in text and machine() in text and "median of 5" in text
    with (tmp_path / "new" / "name.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and rows[2]["seconds"] == "3" and rows[2]["machine"] == machine()


def test_fewer_rounds_than_a_median_takes_are_shown_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("name", [Comparison("a case", {"own": [1.0]})], tmp_path)
    said = capsys.readouterr().out
    assert "| a case | own | 1 |" in said and "not written: 1 of the 5 rounds" in said
    assert not list(tmp_path.iterdir())


def test_what_comes_before_is_not_counted() -> None:
    done: list[str] = []
    thing = timed(lambda: done.append("work"), lambda: (done.append("before"), time.sleep(0.2)))
    assert (thing() or 1.0) < 0.1 and done == ["before", "work"]


def test_the_command_is_drorae() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "drorae" in done.stdout and "fit" in done.stdout


def test_make_bench_can_tell_every_benchmark_where_to_write() -> None:
    scripts = list((Path(__file__).parents[1] / "benchmarks").glob("benchmark_*.py"))
    assert len(scripts) >= 7
    for script in scripts:
        text = script.read_text()
        assert "arguments(__doc__)" in text or '"--out"' in text, script.name

"""`drorae sweep`, `resume` and `train` as people meet them: on terminals and in pipes, to their end and however else
they end. The trials are the stand-ins of fake_trial.py, on a Ray session of each command's own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from records import empty_records
from terminal import CONTROL, CTRL_C, HANG_UP, MODES, PAPER, ROOT, Done, check, impatient, run
from tiny import tiny_config, tiny_images

from drorae.config import canonical_json, config_hash
from drorae.errors import OF_IMAGES
from drorae.runtime.signals import Signals, Stopped

TRIALS = 4
ODD = "an odd 'place'"
"""A folder that a shell takes only quoted."""
SLOW = "encoder.path=sleep=0.5"
"""Trials that last longer than a worker is silent about them."""
SECONDS = 240.0
"""Enough for a machine with much else to do."""
FOOTER = "Ctrl-C stops it; to go on: "
DRAWN = "\x1b[1msmoke\x1b[0m "
"""How the picture begins."""


@dataclasses.dataclass
class Patch:
    """In the child: stand-ins for the trials, and what else a case needs."""

    lost_seconds: float | None = None
    """A head node that does not answer for so long is lost, and as long again the driver may take to notice."""
    nohup: bool = False
    slow_law: bool = False
    """The law takes for ever."""

    def __call__(self) -> None:
        import sweeps.driver.cluster
        import sweeps.driver.run

        stand_ins = {"run_trial": "fake_trial:run_trial", "prepare": "fake_trial:prepare"}
        # A resumed sweep knows them from its sweep.json.
        run_sweep = sweeps.driver.run.run_sweep
        sweeps.driver.run.run_sweep = lambda *given, **named: run_sweep(*given, **{**stand_ins, **named})
        if self.lost_seconds is not None:
            sweeps.driver.cluster.LOST_SECONDS = sweeps.driver.cluster.STUCK_SECONDS = self.lost_seconds
        if self.nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self.slow_law:
            import drorae.commands.sweep
            import drorae.commands.terminal

            drorae.commands.terminal.PATIENCE = 0.0
            drorae.commands.sweep._fit = lambda *given: threading.Event().wait()  # type: ignore[assignment,return-value]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory with two folders of sweeps, each with a store."""
    for name in ("runs", ODD):
        empty_records(tmp_path / name)
    return tmp_path


def drorae(*words: str, cwd: Path, environment: Mapping[str, str] | None = None, **given: Any) -> Done:
    """Runs a command with the stand-ins."""
    paths = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])
    given = {"patch": Patch(), "seconds": SECONDS} | given
    return run(words, cwd=cwd, environment={"PYTHONPATH": paths, **(environment or {})}, **given)


def sweep(*words: str, cwd: Path, trouble: str = "", **given: Any) -> Done:
    """A sweep of four stand-in trials."""
    path = [f"encoder.path={trouble}"] if trouble else []
    return drorae(
        "sweep", "--preset", "smoke", "--no-check-convergence", "--set", "seed=0", *path, *words, cwd=cwd, **given
    )


def statuses(store: Path) -> list[str]:
    """Those of all runs in an MLflow store."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return [status for (status,) in connection.execute("select status from runs")]


def in_order(done: Done, root: Path) -> None:
    """What holds of a sweep that has ended, however it has."""
    assert "Traceback" not in done.text and "internal error" not in done.text, done.text
    assert len((root / "smoke" / "trials.csv").read_text().splitlines()) == 1 + TRIALS
    found = statuses(root / "mlflow.db")
    assert found and "RUNNING" not in found, found


def cursor_is_shown(done: Done) -> None:
    assert re.findall(r"\x1b\[\?25[hl]", done.terminal)[-1] == "\x1b[?25h"


def is_picture(line: str) -> bool:
    """Whether a line is one of the live table's."""
    return "Ctrl-C" in line or line.startswith("running ") or bool(re.search(r"^smoke .*(━|\[\d/\d\])", line))


def first_frame_with(done: Done, text: str) -> list[str]:
    """The screen as it was when the picture first held a text."""
    for match in re.finditer(re.escape(DRAWN), done.terminal):
        end = done.terminal.find("\r", match.start())
        if end > 0 and text in CONTROL.sub("", done.terminal[match.start() : end]):
            return dataclasses.replace(done, terminal=done.terminal[:end]).screen()
    raise AssertionError(f"{text!r} was never shown:\n{done.text}")


LINES = [
    r"Ctrl-C stops it; to go on: drorae resume smoke",
    r"smoke: 4 trials, results in /\S+/runs/smoke",
    r"what Ray and MLflow say goes to /\S+/runs/smoke/driver.log",
    r"prepare: what 4 trials share \(features, decoder, references\)",
    r"prepare: ready in \d+ s",
    r"\[\d/4\] (starting|opening MLflow|preparing|recording in MLflow|training|writing the table and the records): .*",
    r"\[[1-3]/4\] capacity=\d+ psnr=\S+ rfd_dinov2=\S+ \(in the tokenizer.s own features\) gain_psnr=\S+ ± \S+ \d+ s, "
    r"about \d+ s left",
    r"\[4/4\] capacity=\d+ psnr=\S+ rfd_dinov2=\S+ \(in the tokenizer.s own features\) gain_psnr=\S+ ± \S+ \d+ s",
    r"note: no law of (ssim|rfd_effnet): .*",
    r"fitting the law \.\.\.",
    r"left out, for want of room: .*",
]
"""All that a sweep says on stderr in a log."""


@pytest.mark.parametrize("mode", ["60 columns", "dumb", "stderr alone", "pipes"])
def test_a_sweep_that_finishes(mode: str, here: Path) -> None:
    """For 200 columns and for no colour, see `goes_on`."""
    given = dict(MODES[mode])
    if mode == "dumb":
        # Under nohup, a sweep outlives its terminal.
        given |= {"patch": Patch(nohup=True), "then": [(text, signal.SIGHUP) for text in ("prepare: ready", "[1/4]")]}
    # Of two, more is seen while they work.
    slow = mode in ("60 columns", "pipes")
    as_json = ["--json"] if mode == "stderr alone" else []
    done = sweep(*as_json, cwd=here, trouble="sleep=0.5" if slow else "sleep=0.1", **given)
    assert done.code == 0, done.text
    check(done, mode)
    in_order(done, here / "runs")
    results = str(here / "runs" / "smoke")
    if mode in ("pipes", "dumb"):
        said = (done.stderr if mode == "pipes" else done.terminal).splitlines()
        for line in said[: None if mode == "pipes" else said.index("smoke: 4 finished")]:
            assert any(re.fullmatch(known, line) for known in LINES) or line.startswith("    "), line
        assert said[:2] == [f"{FOOTER}drorae resume smoke", f"smoke: 4 trials, results in {results}"]
        assert [line[:5] for line in said if re.match(r"\[\d/4\] cap", line)] == [f"[{n}/4]" for n in range(1, 5)]
    else:
        cursor_is_shown(done)
        assert not any(map(is_picture, done.screen())), "\n".join(done.screen())
    if mode == "60 columns":
        frame = first_frame_with(done, "phase2")
        assert results in "".join(frame) and frame[-1] == f"{FOOTER}drorae resume smoke"
        header = next(line for line in frame if line.startswith("running "))
        assert header.split() == ["running", "phase", "step", "loss", "memory"]
        row = next(line for line in frame if "phase2" in line)
        assert re.fullmatch(r"capacity=\d+ +phase2 +[1-6]/6 +0\.\d+ +\d+\.\d GB", row), row
    if mode == "stderr alone":
        outcome = json.loads(done.stdout)
        assert outcome["counts"] == {"finished": TRIALS} and outcome["directory"] == results
        assert all(Path(path).is_file() for path in outcome["paths"].values())
        return
    ends_with_its_law(done.stdout.splitlines() if mode == "pipes" else done.screen(), here / "runs")


def ends_with_its_law(lines: list[str], root: Path) -> None:
    # The terminal breaks paths.
    end = "".join(lines)
    assert end.index("smoke: 4 finished") < end.index("psnr = 7.0000 + 1.0000 log10(params)")
    last = end[end.rindex("trials: ") :]
    for name in ("trials.csv", "law/law.png", "law/report.html"):
        assert f"{root}/smoke/{name}" in last
    assert f"MLflow: drorae ui --root {shlex.quote(root.name)}" in last


ENDINGS: dict[str, tuple[list[Any], int, str, str]] = {
    "Ctrl-C": ([("[1/4] capacity", CTRL_C)], 130, "interrupted", "all"),
    "Ctrl-C twice": ([("[1/4] capacity", CTRL_C), ("", CTRL_C)], 130, "interrupted", "all"),
    "TERM": ([("[1/4] capacity", signal.SIGTERM)], 143, "terminated", "all"),
    "TERM in pipes": ([("[1/4] capacity", signal.SIGTERM)], 143, "terminated", "none"),
    "TERM in the preparation": ([("prepare: what", signal.SIGTERM)], 143, "terminated", "all"),
    "the window is closed": ([("[1/4] capacity", HANG_UP)], 129, "hung up", "all"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_sweep_that_is_ended(how: str, here: Path) -> None:
    then, code, word, on = ENDINGS[how]
    early = how == "TERM in the preparation"
    trouble = "prepare=60" if early else "sleep=0.4"
    done = sweep("--root", ODD, "--no-fit", cwd=here, trouble=trouble, on=on, columns=200, then=then)
    assert done.code == code, done.text
    if early:
        assert "Traceback" not in done.text and "internal error" not in done.text, done.text
        assert "RUNNING" not in statuses(here / ODD / "mlflow.db")
    else:
        in_order(done, here / ODD)
    finished = len(list((here / ODD / "smoke" / "trials").glob("*/result.json")))
    wanted = f"{word}: {finished} of 4 trials are done; to go on: "
    if how == "the window is closed":
        log = (here / ODD / "smoke" / "driver.log").read_text()
        said = [line.split(" ", 3)[-1] for line in log.splitlines() if line.startswith("drorae: ")]
    else:
        said = done.stderr.splitlines() if on == "none" else done.screen()
        assert not done.stdout
    if on == "all" and how != "the window is closed":
        cursor_is_shown(done)
        assert not any(map(is_picture, said)), "\n".join(said)
    assert said[-1].startswith(wanted) and sum(word in line for line in said) == 1, "\n".join(said)
    words = shlex.split(said[-1].removeprefix(wanted))
    assert words == ["drorae", "resume", "smoke", "--root", ODD]
    if how == "Ctrl-C":
        goes_on(words, here)
        can_be_ended_while_the_law_is_fitted(here)


def goes_on(words: list[str], here: Path) -> None:
    """The command that an ended sweep printed finishes it, and does no trial twice that was done."""
    trials = here / ODD / "smoke" / "trials"
    before = {path.parent: path.stat().st_mtime_ns for path in trials.glob("*/result.json")}
    assert 0 < len(before) < TRIALS
    done = drorae(*words[1:], cwd=here, columns=200, environment={"NO_COLOR": "1"})
    assert done.code == 0, done.text
    check(done, "no colour")
    in_order(done, here / ODD)
    cursor_is_shown(done)
    seen = done.screen()
    ends_with_its_law(seen, here / ODD)
    assert not any(map(is_picture, seen)), "\n".join(seen)
    assert f"{len(before)} of 4 trials are done already" in seen and "smoke: 4 finished" in seen
    for folder, written in before.items():
        assert (folder / "result.json").stat().st_mtime_ns == written
        assert len((folder / "attempts.log").read_text().splitlines()) == 1


def can_be_ended_while_the_law_is_fitted(here: Path) -> None:
    then = [("fitting the law", CTRL_C)]
    done = drorae("resume", "smoke", "--root", ODD, cwd=here, columns=200, patch=Patch(slow_law=True), then=then)
    assert done.code == 130, done.text
    cursor_is_shown(done)
    assert "Traceback" not in done.text
    said, _, last = done.screen()[-1].partition("report")
    assert said == "interrupted: the trials are done; for their law: drorae "
    assert shlex.split(last) == [str(here / ODD / "smoke")]


@dataclasses.dataclass
class Kill:
    """Kills one of the driver's own processes of Ray's."""

    name: str

    def __call__(self, pid: int) -> None:
        (found,) = (child for child in psutil.Process(pid).children(recursive=True) if self.name in child.name())
        found.kill()


@pytest.mark.parametrize(
    ("process", "trouble"),
    [
        ("gcs_server", r"the Ray head node at [\d.]+:\d+ does not answer \(Connection refused\)"),
        ("raylet", r"Ray's own process on this machine \(raylet\) has died"),
    ],
    ids=["head node", "raylet"],
)
def test_a_head_node_that_is_lost(process: str, trouble: str, here: Path) -> None:
    patch, then = Patch(lost_seconds=2.0), [("phase2", Kill(process))]
    # Ray asks its raylets every three seconds whether they live, and gives up the fifth time.
    often = {"RAY_health_check_period_ms": "500"}
    words = ["--root", ODD, "--no-fit"]
    done = sweep(*words, cwd=here, trouble="sleep=4", columns=300, patch=patch, then=then, environment=often)
    assert done.code == 1, done.text
    in_order(done, here / ODD)
    cursor_is_shown(done)
    seen = done.screen()
    assert not any(map(is_picture, seen)), "\n".join(seen)
    (error,) = (line for line in seen if "error" in line)
    found = re.fullmatch(rf"error: {trouble}; 0 of 4 trials are done; to go on: (.*)", error)
    assert error == seen[-1] and found, "\n".join(seen)
    assert shlex.split(found[1]) == ["drorae", "resume", "smoke", "--root", ODD]


def test_trials_that_fail_and_that_are_tried_again(here: Path) -> None:
    trouble = "sleep=0.3&once=4&always=16&user=64"
    done = sweep("--max-failures", "1", "--no-fit", cwd=here, trouble=trouble, columns=100)
    assert done.code == 1, done.text
    in_order(done, here / "runs")
    cursor_is_shown(done)
    seen = done.screen()
    assert not any(map(is_picture, seen)), "\n".join(seen)
    events = "\n".join(seen[: seen.index("smoke: 2 finished, 2 failed")])
    assert "capacity=4: tried again (RuntimeError: it does not work at first)" in events
    assert re.search(r"\[\d/4\] capacity=16 failed: RuntimeError: it never works \d+ s", events), events
    assert re.search(r"\[\d/4\] capacity=64 failed: fusion: a width nobody can use \d+ s", events), events
    again = done.terminal.index("tried again")
    frame = dataclasses.replace(done, terminal=done.terminal[: done.terminal.index("\r", again)]).screen()
    assert frame[-1].startswith(FOOTER) and "tried again" in "\n".join(frame[:-3]), "\n".join(frame)


def test_train_on_a_terminal(here: Path) -> None:
    words = ["train", "--preset", "smoke", "--set", SLOW, "--out", f"{ODD}/mine"]
    done = drorae(*words, cwd=here, columns=60)
    assert done.code == 0, done.text
    check(done, "60 columns")
    cursor_is_shown(done)
    assert "Traceback" not in done.text and statuses(here / ODD / "mlflow.db") == ["FINISHED"] * 2
    seen = done.screen()
    assert not any("Ctrl-C" in line for line in seen)
    assert "phase2" in done.text and "GB" in done.text
    assert "phase 1 (no fusion)" in "\n".join(seen)
    # A long path is broken, where it has a space at that.
    assert str(here / ODD / "mine" / "trials").replace(" ", "") in "".join(seen[-3:]).replace(" ", "")


def test_train_without_tracking(here: Path) -> None:
    config = tiny_config(tiny_images(here / "images.npz"))
    (here / "config.json").write_text(canonical_json(config))
    words = ["train", "--no-track", "--config", "config.json", "--out", ODD, "--threads", "1"]
    done = drorae(*words, cwd=here, columns=200, patch=impatient, then=[("training", CTRL_C)])
    assert done.code == 130, done.text
    cursor_is_shown(done)
    seen = [line for line in done.screen() if not line.startswith(f"note: {OF_IMAGES}")]
    assert seen == [f"interrupted: the same command goes on from the last checkpoint in {here / ODD}"], done.text
    done = drorae(*words, "--json", cwd=here, on="none", patch=impatient)
    assert done.code == 0, done.text
    check(done, "pipes")
    assert json.loads(done.stdout)["config_hash"] == config_hash(config)
    said = [line for line in done.stderr.splitlines() if not line.startswith(f"note: {OF_IMAGES}")]
    assert said[0] == "training ...", done.stderr


def test_a_signal_waits_for_the_outermost_block() -> None:
    done = []
    with pytest.raises(Stopped) as end, Signals() as signals, signals.deferred():
        with signals.deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append("inner")
        other = threading.Thread(target=lambda: done.append(enters(signals)))
        other.start()
        other.join()
        done.append("outer")
    assert end.value.signum == signal.SIGTERM and done == ["inner", "another thread", "outer"]


def enters(signals: Signals) -> str:
    with signals.deferred():
        return "another thread"


def test_a_reader_that_goes_away() -> None:
    words = [sys.executable, "-m", "drorae", "fit", PAPER, "--y", "rfid"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        child.stdout.close()
        child.stdout = None
        _, said = child.communicate(timeout=SECONDS)
    assert (child.returncode, said) == (141, b"")

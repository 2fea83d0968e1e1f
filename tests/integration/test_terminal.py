"""Every command but those that train, as people meet it: on a terminal, wide and narrow, dumb or colourless; behind a
pipe with only stderr on the terminal; and in a log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import sweep
from terminal import CONTROL, CTRL_C, HANG_UP, MODES, PAPER, Done, check, impatient, patient, run
from tiny import tiny_config, tiny_images

from drorae.commands.main import COMMANDS
from drorae.config import PRESETS, Runtime
from drorae.trial.run import run_trial
from sweeps.spec import Axis, SweepSpec

LINES = {
    "fit": f"{PAPER} --y rfid",
    "predict": f"{PAPER} --y rfid --at 2e8 --target 0.4",
    "plan": f"{PAPER} --y rfid --runs 8 --replications 50 --preset paper --out OUT",
    "compare": "DESIGNS --y psnr --by design",
    "report": "SWEEP --out OUT",
    "status": "toy --root ROOT",
    "eval": "TRIAL --threads 1",
    "inspect": "TRIAL --threads 1 --images 4 --out OUT",
    "probe": "TRIAL --threads 1 --set steps=4 batch_size=8 width=32 depth=1 heads=2",
    "export": "TRIAL OUT --threads 1",
    "doctor": "",
}
BUSY = {"report": "fitting", "eval": "measuring", "inspect": "looking at", "probe": "probing", "export": "exporting"}
"""What a command that may take long says meanwhile."""
TABLES = {"plan": "design", "eval": "metric", "inspect": "number", "probe": "metric"}


@pytest.fixture(scope="module")
def toy(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of stand-in trials, below one of all sweeps."""
    root = tmp_path_factory.mktemp("runs")
    sweep(SweepSpec("toy", PRESETS["smoke"], (Axis("capacity", (4, 8, 16, 32)),)), root)
    return root / "toy"


@pytest.fixture(scope="module")
def designs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two designs at five sizes."""
    path = tmp_path_factory.mktemp("designs") / "designs.csv"
    rows = [
        f"{design},{10**size},{20 + slope * size + 0.01 * (-1) ** (size * slope)}"
        for design, slope in (("plain", 1), ("fancy", 2))
        for size in range(3, 8)
    ]
    path.write_text("\n".join(["design,params,psnr", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real trial, the smallest there is."""
    folder = tmp_path_factory.mktemp("trial")
    config = tiny_config(tiny_images(folder / "images.npz"))
    run_trial(config, directory=folder / "trial", runtime=Runtime(device="cpu", cache_dir=os.environ["DRORAE_CACHE"]))
    return folder / "trial"


def instead_of_mlflow() -> None:
    """In the child: what would become the MLflow server prints how it would, and the store that it would find."""
    os.execv = lambda path, arguments: print(  # type: ignore[assignment]
        shlex.join(arguments), "on", os.environ["MLFLOW_BACKEND_STORE_URI"]
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LINES)
def test_commands(name: str, mode: str, toy: Path, trial: Path, designs: Path, tmp_path: Path) -> None:
    places = {"OUT": tmp_path / "out", "SWEEP": toy, "ROOT": toy.parent, "TRIAL": trial, "DESIGNS": designs}
    words = [str(places.get(word, word)) for word in LINES[name].split()]
    as_json = mode == "stderr alone" and name != "report"
    done = run([name, *words, *(["--json"] if as_json else [])], patch=impatient, cwd=tmp_path, **MODES[mode])
    # The doctor may find something missing, and says so.
    assert done.code == 0 or (name, done.code) == ("doctor", 1), done.text
    check(done, mode)
    told = done.stderr if mode == "pipes" else done.terminal
    if name in BUSY:
        assert BUSY[name] in told
    if mode == "stderr alone":
        assert name != "report" or done.stdout.startswith("psnr = ")
        if as_json:
            assert json.loads(done.stdout)
    elif mode not in ("dumb", "pipes"):
        seen = "\n".join(done.screen())
        left = any(said + " " in seen for said in BUSY.values())
        assert not left, f"signs of life go when the work is done:\n{seen}\n{done.terminal!r}"
    if name in TABLES and not as_json:
        assert re.search(rf"┃ {TABLES[name]} +┃", done.stdout if mode == "pipes" else "\n".join(done.screen()))


def test_the_help_has_no_colours_where_nobody_wants_them() -> None:
    assert "\x1b[" in run(["--help"]).terminal
    assert "\x1b[" not in run(["--help"], environment={"NO_COLOR": "1"}).terminal


@pytest.mark.parametrize("mode", MODES)
def test_help_of_every_command(mode: str) -> None:
    # tyro draws them all alike, so that two do for most terminals.
    names = COMMANDS if mode in ("60 columns", "pipes") else ("fit",)
    for words in ([], *([name] for name in names)):
        done = run([*words, "--help"], **MODES[mode])
        assert done.code == 0 and "usage: drorae" in done.text
        if mode in ("dumb", "pipes", "stderr alone"):
            assert not CONTROL.search(done.terminal + done.stdout + done.stderr)


@pytest.mark.parametrize("mode", MODES)
def test_a_mistake_is_one_line(mode: str, tmp_path: Path) -> None:
    for words in (["fit", "nowhere.csv", "--y", "rfid"], ["eval", "nowhere"], ["ui"]):
        is_one_line(run(words, cwd=tmp_path, patch=patient, **MODES[mode]))


def is_one_line(done: Done) -> None:
    said = done.stderr + done.terminal
    assert done.code == 2 and re.fullmatch(r"error: [^\n\x1b\r]+\n", said), said
    assert not done.stdout


@pytest.mark.parametrize("mode", MODES)
def test_arguments_that_do_not_fit_are_one_line(mode: str) -> None:
    for words in (["plan"], ["ui", "--port", "x"], ["trian"]):
        is_one_line(run(words, patch=patient, **MODES[mode]))


@pytest.mark.parametrize("mode", MODES)
def test_ui_becomes_mlflow(mode: str, toy: Path) -> None:
    done = run(["ui", "--root", str(toy.parent), "--port", "5124"], patch=instead_of_mlflow, **MODES[mode])
    check(done, mode)
    said = done.stdout or done.terminal
    assert "-m mlflow ui --host 127.0.0.1 --port 5124" in said
    assert said.rstrip().endswith(f"on sqlite:///{toy.parent}/mlflow.db")
    assert "MLflow UI on http://127.0.0.1:5124" in (done.stderr or done.terminal)


def test_ui_serves_until_ctrl_c(toy: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def answered(pid: int) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.status == 200
                return
            time.sleep(0.5)

    words = ["ui", "--root", str(toy.parent), "--port", str(port)]
    done = run(words, then=[("MLflow UI on", answered), ("", CTRL_C)], seconds=200)
    assert done.code == 0 and "Traceback" not in done.text
    # A line of ours, broken in two, and little of MLflow's.
    assert len(done.screen()) < 10, done.text


def commands(text: str, program: str) -> list[list[str]]:
    """Commands to copy in what was written, as the shell would take them."""
    return [shlex.split(line[line.index(program) :]) for line in text.split("\n") if program in line]


@pytest.mark.parametrize("mode", ["60 columns", "pipes"])
def test_commands_to_copy_are_quoted_and_whole(mode: str, toy: Path, tmp_path: Path) -> None:
    root = tmp_path / "an odd 'place'"
    shutil.copytree(toy, root / "toy")
    shutil.rmtree(next((root / "toy" / "trials").iterdir()))
    ours = str(root / "bin" / "drorae")
    done = run(["status", "toy", "--root", str(root)], program=ours, **MODES[mode])
    assert commands(done.text, shlex.quote(ours)) == [[ours, "resume", "toy", "--root", str(root)]]
    words = ["plan", PAPER, "--y", "rfid", "--runs", "4", "--replications", "50", "--preset", "paper"]
    done = run([*words, "--out", str(root)], program=ours, **MODES[mode])
    assert commands(done.text, shlex.quote(ours)) == [[ours, "sweep", "--config", str(root / "sweep.json")]]
    done = run(["fit", PAPER, "--y", "rfid", "--out", str(root)], **MODES[mode])
    page = (root / "report.html").read_text()
    assert "an odd &#x27;&quot;&#x27;&quot;&#x27;place" in page or shlex.quote(str(root)) in page


@pytest.mark.parametrize(
    ("action", "code", "word"),
    [(CTRL_C, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (HANG_UP, 129, "")],
)
def test_a_command_can_be_ended(action: Any, code: int, word: str) -> None:
    words = ["plan", PAPER, "--y", "rfid", "--runs", "8", "--replications", "20000"]
    done = run(words, patch=impatient, then=[("simulating", action)])
    assert done.code == code
    if word:
        assert done.screen()[-1].endswith(f"{word} before it was done")
        assert done.terminal.rindex("\x1b[?25h") > done.terminal.rindex("\x1b[?25l"), "the cursor is hidden"


def test_the_harness_has_a_time_limit() -> None:
    words = ["plan", PAPER, "--y", "rfid", "--runs", "8", "--replications", "20000"]
    with pytest.raises(TimeoutError, match="not over after 0.5 s"):
        run(words, seconds=0.5)
    with pytest.raises(TimeoutError, match="over before 'never' appeared"):
        run(["--help"], then=[("never", CTRL_C)])

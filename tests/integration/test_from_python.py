"""Sweeps that Python code runs, not the command: in a script, in a thread of it, and in a notebook."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hook import hook
from jupyter_client import BlockingKernelClient, KernelManager
from records import empty_records

from sweeps.folder.sweep import DRIVER_LOG

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path
from fake_sweep import sweep
from drorae.config import PRESETS, override
from sweeps.spec import Axis, SweepSpec

def go(name, sleep=0.01, **settings):
    base = override(PRESETS["smoke"], "encoder.path", f"sleep={sleep}")
    return sweep(SweepSpec(name, base, (Axis("capacity", (4, 8, 16)),)), ROOT, **settings)
"""
ENDED = ("[1/3] ", "[2/3] ", "[3/3] ")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One that finds the project and its stand-ins, and no notebook settings of the developer's."""
    empty_records(tmp_path)
    paths = [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    own = {name: str(tmp_path / "jupyter") for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "jupyter"), "JUPYTER_PLATFORM_DIRS": "1"}
    # A kernel that finds itself in a test does not look after its descriptors.
    others = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return {**others, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": ""}


def script(tmp_path: Path, code: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts a script as a scheduler does: in pipes, and with signals as they are by default."""
    file = tmp_path / "script.py"
    file.write_text(f"from pathlib import Path\nROOT = Path({str(tmp_path)!r})\n{START}{code}")
    return subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(environment)
    )


def until(condition: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def counts(table: Path) -> dict[str, int]:
    """Trials per status in a sweep's table."""
    return dict(pd.read_csv(table)["status"].value_counts())


def test_a_script_and_a_thread_of_it(tmp_path: Path, environment: dict[str, str]) -> None:
    code = """
import threading
from sweeps.driver.cluster import ray_session
print("before")
print("its stderr", file=sys.stderr)
found = []
# One session for both: to start one takes longest.
with ray_session(""):
    print("after", go("alone").counts)
    thread = threading.Thread(target=lambda: found.append(go("threaded").counts))
    thread.start()
    thread.join()
print("after the thread", *found)
print("its stderr again", file=sys.stderr)
"""
    process = script(tmp_path, code, environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines() == ["before", "after {'finished': 3}", "after the thread {'finished': 3}"]
    lines = err.splitlines()
    assert (lines[0], lines[-1]) == ("its stderr", "its stderr again")
    for name in ("alone", "threaded"):
        assert f"{name}: 3 trials, results in {tmp_path / name}" in lines
        assert f"Ctrl-C stops it; to go on: drorae resume {name} --root {tmp_path}" in lines
        assert counts(tmp_path / name / "trials.csv") == {"finished": 3}
        assert "[3/3]" in (tmp_path / name / DRIVER_LOG).read_text()
    for mark in ENDED:
        assert sum(line.startswith(mark) for line in lines) == 2
    # Libraries' words are in the log alone, and no line is ours only in part.
    assert "\x1b" not in err
    assert not any(word in err for word in ("INFO", "WARNING", "Traceback", "alembic"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_is_stopped(tmp_path: Path, environment: dict[str, str], signum: signal.Signals) -> None:
    notify = shlex.join(hook(tmp_path / "told"))
    code = f"""
print("before")
try:
    go("slow", sleep=1, notify={notify!r})
except BaseException as error:
    print("caught", type(error).__name__)
    raise
print("not reached")
"""
    process = script(tmp_path, code, environment)
    try:
        until(lambda: process.poll() is not None or any(tmp_path.glob("slow/trials/*/checkpoint.json")))
        process.send_signal(signum)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    word, kind = ("terminated", "Stopped") if signum == signal.SIGTERM else ("interrupted", "KeyboardInterrupt")
    # After an uncaught KeyboardInterrupt Python ends by the signal itself, so that a shell's loop ends, too.
    assert process.returncode == (143 if signum == signal.SIGTERM else -signal.SIGINT)
    assert out.splitlines() == ["before", f"caught {kind}"]
    ours = f"{word}: 0 of 3 trials are done; to go on: drorae resume slow --root {tmp_path}"
    lines = err.splitlines()
    assert lines.count(ours) == 1
    assert (tmp_path / "told").read_text() == f"interrupted slow: {ours}\n"
    if signum == signal.SIGTERM:
        assert lines[-1] == ours
    else:
        assert lines[-1] == "KeyboardInterrupt"
    assert counts(tmp_path / "slow" / "trials.csv") == {"missing": 3}


@dataclass
class Cell:
    """What a cell of a notebook shows."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    """What the display that is updated in place said, one after the other."""

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """Does with a message what a notebook does."""
        if kind == "update_display_data":
            self.updates.append(content["data"]["text/plain"])
            for output in self.outputs:
                if output["transient"] and output["transient"] == content["transient"]:
                    output["data"] = content["data"]
        elif kind == "clear_output":
            self.outputs.clear()
        elif kind in ("stream", "display_data", "error", "execute_result"):
            self.outputs.append({"kind": kind, "transient": None} | content)

    def stream(self, name: str) -> str:
        return "".join(item["text"] for item in self.outputs if item["kind"] == "stream" and item["name"] == name)

    @property
    def errors(self) -> list[str]:
        return [item["ename"] for item in self.outputs if item["kind"] == "error"]

    @property
    def displays(self) -> list[str]:
        return [item["data"]["text/plain"] for item in self.outputs if item["kind"] == "display_data"]


class Notebook:
    """A kernel, and who runs cells in it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, interrupt: Callable[[Cell], object] = lambda cell: False) -> Cell:
        """Runs a cell, and presses the button that interrupts it as soon as that holds of what it shows."""
        cell, pressed = Cell(), False

        def take(message: dict[str, Any]) -> None:
            nonlocal pressed
            cell.take(message["msg_type"], message["content"])
            if not pressed and interrupt(cell):
                pressed = True
                self.manager.interrupt_kernel()

        self.client.execute_interactive(code, output_hook=take, allow_stdin=False, timeout=300)
        return cell


@pytest.fixture
def notebook(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    for name, value in environment.items():
        if name.startswith("JUPYTER"):
            monkeypatch.setenv(name, value)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), env=environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=300)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_notebook(tmp_path: Path, notebook: Notebook) -> None:
    cell = notebook.run(f"from pathlib import Path\nROOT = Path({str(tmp_path)!r})\n{START}")
    assert cell.outputs == []

    # The button that interrupts a cell, while a trial is at work.
    cell = notebook.run(
        "print('before')\ngo('sweep', sleep=0.5)\nprint('not reached')",
        lambda cell: cell.updates and "phase2" in cell.updates[-1],
    )
    assert cell.errors == ["KeyboardInterrupt"]
    lines = cell.stream("stdout").splitlines()
    assert lines[0] == "before"
    assert lines[-1] == f"interrupted: 0 of 3 trials are done; to go on: drorae resume sweep --root {tmp_path}"
    assert cell.displays == ["sweep: 0 of 3 trials have ended"]
    assert counts(tmp_path / "sweep" / "trials.csv") == {"missing": 3}

    # The kernel goes on: what Python and what a child writes is shown where it was before.
    cell = notebook.run(
        "import subprocess, time\nprint('next')\nprint('err', file=sys.stderr)\n"
        "subprocess.run(['sh', '-c', 'echo child'])\ntime.sleep(0.5)"
    )
    assert cell.errors == []
    assert (sorted(cell.stream("stdout").split()), cell.stream("stderr")) == (["child", "next"], "err\n")
    assert cell.displays == []

    # The same cell again finishes the sweep.
    cell = notebook.run("outcome = go('sweep', sleep=0.5)\nprint('after', outcome.counts)")
    assert (cell.errors, cell.stream("stderr")) == ([], "")
    lines = cell.stream("stdout").splitlines()
    assert f"sweep: 3 trials, results in {tmp_path / 'sweep'}" in lines
    assert lines[-1] == "after {'finished': 3}"
    for mark in ENDED:
        assert sum(line.startswith(mark) for line in lines) == 1
    # One display, which was drawn anew again and again, and ends as a line.
    assert cell.displays == ["sweep: 3 of 3 trials have ended"]
    assert any("training" in text and "Ctrl-C" in text for text in cell.updates)
    assert all("\x1b" not in text for text in cell.updates)
    assert all(len(line) <= 100 for text in cell.updates for line in text.splitlines())
    assert counts(tmp_path / "sweep" / "trials.csv") == {"finished": 3}
    cell = notebook.run("print('usable')\n1 + 1")
    assert (cell.stream("stdout"), cell.stream("stderr"), cell.errors) == ("usable\n", "", [])
    assert cell.outputs[-1]["data"]["text/plain"] == "2"

"""Processes of this machine on one trial: the main one is heard, and what ends one ends all."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from drorae.errors import Notice, UserError
from drorae.runtime import distributed
from drorae.runtime.processes import run_in_processes

Tell = Callable[[Any], None]


def pair(folder: Path, ending: str, number: int, tell: Tell) -> str:
    """One of two processes; the second comes to an `ending` while the first waits for it."""
    import warnings

    (folder / str(number)).write_text(str(os.getpid()))
    for step in range(3):
        tell((number, step))
    warnings.warn(Notice(f"noticed by {number}"), stacklevel=1)
    distributed.barrier()
    tell("met")
    if ending in ("kill", "user", "wrong") and number == 1:
        if ending == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the second is\nout of room") if ending == "user" else ValueError("the second is wrong")
    if ending == "sleep":
        time.sleep(100)
    distributed.barrier()
    return f"of {number} in {distributed.world_size()}"


def ended(folder: Path) -> bool:
    """Whether both processes have gone."""
    deadline = time.monotonic() + 300
    pids = [int((folder / str(number)).read_text()) for number in (0, 1)]
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_what_the_main_process_tells_finds_and_notices_comes_from_it_alone(tmp_path: Path) -> None:
    heard: list[Any] = []
    with pytest.warns(Notice) as noticed:
        found = run_in_processes(functools.partial(pair, tmp_path, ""), 2, "gloo", heard.append)
    assert found == "of 0 in 2" and heard == [(0, 0), (0, 1), (0, 2), "met"]
    assert [str(item.message) for item in noticed] == ["noticed by 0"]
    assert ended(tmp_path)


@pytest.mark.filterwarnings("ignore::drorae.errors.Notice")
@pytest.mark.parametrize(
    ("ending", "error", "said"),
    [
        ("user", UserError, "^the second is\nout of room$"),
        ("wrong", ValueError, "^the second is wrong$"),
        ("kill", UserError, "^process 2 of 2 was killed by signal 9; .* goes on from the last checkpoint$"),
    ],
)
def test_one_that_fails_or_dies_ends_all_with_its_own_error(
    tmp_path: Path, ending: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run_in_processes(functools.partial(pair, tmp_path, ending), 2, "gloo")
    assert ended(tmp_path)


@pytest.mark.filterwarnings("ignore::drorae.errors.Notice")
def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    def interrupt(told: Any) -> None:
        if told == "met":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(functools.partial(pair, tmp_path, "sleep"), 2, "gloo", interrupt)
    assert ended(tmp_path)


def test_they_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import functools, pathlib, test_processes\n"
        "from drorae.runtime.processes import run_in_processes\n"
        "if __name__ == '__main__':\n"
        f"    work = functools.partial(test_processes.pair, pathlib.Path({str(tmp_path)!r}), 'sleep')\n"
        "    run_in_processes(work, 2, 'gloo', lambda told: print(told, flush=True))\n"
    )
    (tmp_path / "parent.py").write_text(script)
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env=os.environ | {"PYTHONPATH": places}, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert b"met\n" in iter(parent.stdout.readline, b"")
    parent.kill()
    parent.wait()
    assert ended(tmp_path)

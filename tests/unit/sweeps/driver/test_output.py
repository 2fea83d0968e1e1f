"""What a driver's process writes: ours to people, everything else to a file, and all back in its place afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sweeps.driver.output import OURS, Tail, aside

FULL = Path("/dev/full")
TALK = """
import logging, os, subprocess, sys
from pathlib import Path
from sweeps.driver.output import aside
logging.basicConfig(format="%(message)s")
out, err = sys.stdout, sys.stderr
print("before, out")
err and print("before, err", file=err)
print("unfinished", end=" ")
with aside(Path(sys.argv[1])) as (people, log):
    print("print")
    print("print to stderr", file=sys.stderr)
    # Whoever kept the streams, as logging does, writes to the descriptors.
    logging.warning("logging")
    print("kept out", file=out or sys.stdout)
    print("kept err", file=err or sys.stderr)
    os.write(1, b"C, out\\n")
    os.write(2, b"C, err\\n")
    subprocess.run(["sh", "-c", "echo child, out; echo child, err >&2"])
    print("ours", file=people)
    print("the log's", file=log)
    print("terminal", people.isatty(), file=people)
print("after, out")
err and print("after, err", file=err)
subprocess.run(["sh", "-c", "echo child after, out; echo child after, err >&2"], check=True)
"""
OPEN = """
import os
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
def now_open():
    return {number for number in range(64) if is_open(number)}
"""
ASIDE = {
    *("print", "print to stderr", "logging", "kept out", "kept err", "C, out", "C, err", "child, out", "child, err"),
    "the log's",
}
OUT = ["before, out", "unfinished after, out", "child after, out"]
ERR = ["before, err", "ours", "terminal False", "after, err", "child after, err"]


def talk(
    log: Path, redirection: str = "", code: str = TALK, unbuffered: bool = True, **streams: int
) -> subprocess.CompletedProcess[str]:
    """Runs code that talks, from a shell that may close its streams."""
    line = [sys.executable, *(["-u"] if unbuffered else []), "-c", code, str(log)]
    if redirection:
        line = ["sh", "-c", f'exec "$@" {redirection}', "sh", *line]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(line, text=True, timeout=300, **given)  # type: ignore[call-overload]


def descriptors() -> dict[int, tuple[int, int]]:
    """What is open, and what it leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        # The one that lists the folder is closed by now.
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            found[int(name)] = (status.st_dev, status.st_ino)
    return found


@pytest.mark.parametrize("unbuffered", [True, False], ids=["at once", "held back"])
def test_into_pipes(tmp_path: Path, unbuffered: bool) -> None:
    log = tmp_path / "driver.log"
    done = talk(log, unbuffered=unbuffered)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == OUT
    assert done.stderr.splitlines() == ERR
    assert set(log.read_text().splitlines()) == ASIDE


def test_on_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    ours, theirs = pty.openpty()
    try:
        done = talk(log, stderr=theirs)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert done.stdout.splitlines() == OUT
    assert shown.splitlines() == [line.replace("False", "True") for line in ERR]
    assert set(log.read_text().splitlines()) == ASIDE


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_with_streams_closed(tmp_path: Path, redirection: str) -> None:
    log = tmp_path / "driver.log"
    before, after = TALK.split('print("after, out")')
    code = f"""{OPEN}
was_open = now_open()
{before}
Path(sys.argv[1] + ".left").write_text(str(now_open() ^ was_open))
print("after, out")
{after}
"""
    done = talk(log, redirection, code.replace("check=True", "check=False"))
    no_out, no_err = ">&-" in redirection.split(), "2>&-" in redirection.split()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ([] if no_out else OUT)
    said = [line for line in done.stderr.splitlines() if not line.startswith("sh: ")]
    assert said == ([] if no_err else ERR)
    # logging has nowhere to write to where there was no stderr as it began.
    assert set(log.read_text().splitlines()) >= ASIDE - ({"logging"} if no_err else set())
    assert (tmp_path / "driver.log.left").read_text() == "set()"


@pytest.mark.slow
def test_the_command_with_streams_closed(tmp_path: Path) -> None:
    code = (
        "import sys; from drorae.commands.main import main; sys.exit(main(['status', 'none', '--root', sys.argv[1]]))"
    )
    for redirection in (">&-", "2>&-", ">&- 2>&-"):
        done = talk(tmp_path, redirection, code)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == ("2>&-" not in redirection.split())
        done = talk(tmp_path, redirection, code.replace("'status', 'none', '--root'", "'doctor', '--help', '--root'"))
        assert (done.returncode, done.stderr) == (0, "")


def test_under_pytests_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "driver.log"
    print("before")
    with aside(log) as (people, file):
        print("noise")
        os.write(1, b"C, out\n")
        os.write(2, b"C, err\n")
        print("ours", file=people)
        file.write("the log's\n")
    print("after")
    assert capsys.readouterr() == ("before\nafter\n", "ours\n")
    assert set(log.read_text().splitlines()) == {"noise", "C, out", "C, err", "the log's"}


def test_streams_without_descriptors(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"

    class Least:
        """All that print asks of a stream."""

        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return False

    for out, err in ((io.StringIO(), io.StringIO()), (Least(), Least()), (None, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with aside(log) as (people, _):
                print("noise")
                print("ours", file=people, flush=True)
                assert not people.isatty()
            assert (sys.stdout, sys.stderr) == (out, err)
        for stream, text in ((out, ""), (err, "ours\n")):
            if stream is not None:
                assert (stream.getvalue() if isinstance(stream, io.StringIO) else stream.text) == text
    assert log.read_text() == "noise\n" * 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("fails", [False, True], ids=["well", "with an error"])
def test_descriptors_are_back_and_none_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str], fails: bool) -> None:
    before, streams = descriptors(), (sys.stdout, sys.stderr)
    for _ in range(20):
        with contextlib.suppress(ZeroDivisionError), aside(tmp_path / "driver.log") as (people, _log):
            people.write("ours\n")
            print("noise")
            if fails:
                raise ZeroDivisionError
    assert descriptors() == before
    assert (sys.stdout, sys.stderr) == streams
    assert capfd.readouterr() == ("", "ours\n" * 20)
    assert (tmp_path / "driver.log").read_text() == "noise\n" * 20


def test_one_inside_another(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with aside(tmp_path / "outer.log") as (people, _):
        print("outer")
        with aside(tmp_path / "inner.log") as (inner, _log):
            print("inner")
            inner.write("to the outer's people\n")
        os.write(2, b"outer again\n")
        people.write("ours\n")
    assert (tmp_path / "inner.log").read_text() == "inner\n"
    assert (tmp_path / "outer.log").read_text() == "outer\nto the outer's people\nouter again\n"
    assert capfd.readouterr() == ("", "ours\n")


def test_threads_that_were_there_before_are_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begin, end = threading.Event(), threading.Event()

    def other() -> None:
        begin.wait(300)
        print("another thread's")
        print("and its stderr", file=sys.stderr)
        end.set()

    thread = threading.Thread(target=other)
    thread.start()
    with aside(tmp_path / "driver.log") as (people, _):
        begin.set()
        assert end.wait(300)
        late = threading.Thread(target=lambda: print("a new thread's"))
        late.start()
        late.join()
        print("ours", file=people)
    thread.join()
    assert capfd.readouterr() == ("another thread's\n", "and its stderr\nours\n")
    assert (tmp_path / "driver.log").read_text() == "a new thread's\n"


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with aside(FULL) as (people, log):
        for _ in range(1000):
            print("noise" * 100)
            print("noise", file=sys.stderr, flush=True)
            log.write("the log's\n")
        sys.stdout.flush()
        people.write("ours\n")
    print("after")
    assert capfd.readouterr() == ("after\n", "ours\n")


def test_a_reader_that_has_gone_harms_nobody(tmp_path: Path) -> None:
    code = """
import sys
import threading
from pathlib import Path
from sweeps.driver.output import aside
with aside(Path(sys.argv[1])) as (people, log):
    for number in range(1000):
        people.write("ours\\n" * 10)
        people.flush()
    print("done")
print("and out")
"""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = talk(tmp_path / "driver.log", code=code, stderr=theirs)
    finally:
        os.close(theirs)
    assert (done.returncode, done.stdout) == (0, "and out\n")
    assert (tmp_path / "driver.log").read_text() == "done\n"


# What Ray 2.60 says, from its sources: memory_monitor and node_manager.cc, file_system_monitor.cc, event_logger.py,
# gcs_node_manager.cc, local_lease_manager.cc.
OOM = (
    "3 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node "
    "(ID: 9f2b6c0a4d1e, IP: 10.0.0.7) over the last time period. To see more information about the Workers killed on "
    "this node, use `ray logs raylet.out -ip 10.0.0.7`"
)
DISK = (
    "/tmp/ray/session_2025-01-31_10-00-00_000000_1234 is over 95% full, available space: 3.21 GB; capacity: 98.5 GB. "
    "Object creation will fail if spilling is required."
)
NO_NODES = (
    "No available node types can fulfill resource requests {'CPU': 64.0}*3. Add suitable node types to this cluster to "
    "resolve this issue."
)
DEAD = (
    "The node with node id: 5b1f00aa77cc and address: 10.0.0.8 and node name: 10.0.0.8 has been marked dead because "
    "the detector has missed too many heartbeats from it. This can happen when a (1) raylet crashes unexpectedly (OOM, "
    "etc.)"
)
PENDING = (
    "Warning: The following resource request cannot be scheduled right now: {'CPU': 4.0}. This is likely due to all "
    "cluster resources being claimed by actors."
)
ACTOR = "The actor or task with ID ffffffff01 cannot be scheduled right now. You can ignore this message if this"
ACTIONABLE = [OOM, DISK, NO_NODES, DEAD, PENDING, ACTOR]
CHATTER = [
    "2025-01-31 10:00:00,000\tINFO worker.py:1917 -- Started a local Ray instance.",
    "2025/01/31 10:00:00 INFO mlflow.store.db.utils: Creating initial MLflow database tables...",
    "INFO  [alembic.runtime.migration] Running upgrade  -> 451aebb31d03, add metric step",
    "[W131 10:00:00.000000000 socket.cpp:204] [c10d] The hostname of the client socket cannot be retrieved.",
    "\x1b[33m(raylet)\x1b[0m [2025-01-31 10:00:00,000 I 1 1] worker_pool.cc:728: Started worker process.",
    "(run_trial pid=1234) loss 0.5 at step 95",
    "",
    "   ",
]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_tail_finds_what_a_user_can_act_on_once(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    append(log, f"{OOM}\n")
    tail = Tail(log)
    # What an earlier driver left is not news.
    assert tail.news() == []
    for text in ACTIONABLE:
        append(log, "\n".join([*CHATTER, text, *CHATTER]) + "\n")
        (said,) = tail.news()
        assert len(said) <= 240
        assert text.startswith(said.removesuffix(" ..."))
        assert said == text or (said.endswith(" ...") and text[len(said) - 4] == " ")
        # From another node, an hour later, with other numbers.
        other = text.replace("3", "4").replace("9f2b6c0a4d1e", "0123456789ab").replace("10.0.0.7", "10.0.1.33")
        append(log, f"{text}\n{other}\n")
        assert tail.news() == []


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "  {}  ",
        "(raylet) {}",
        "(raylet, ip=10.0.0.7) {}",
        "\x1b[33m(raylet, ip=10.0.0.7)\x1b[0m {}",
        "\x1b[36m(autoscaler +2m30s)\x1b[0m {}",
        "\x1b[2m\x1b[33m(raylet)\x1b[0m {}",
        "(raylet) \x1b[1m{}\x1b[22m",
        "{} \x1b[32m [repeated 3x across cluster]\x1b[0m",
        "{}\r",
    ],
)
def test_tail_leaves_out_colours_and_who_said_it(tmp_path: Path, form: str) -> None:
    log = tmp_path / "driver.log"
    tail = Tail(log)
    append(log, form.format(DISK) + "\n")
    (said,) = tail.news()
    assert said.removesuffix(" [repeated 3x across cluster]").rstrip() == DISK


def test_tail_passes_over_chatter_and_our_own_lines(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    tail = Tail(log)
    append(log, "\n".join(CHATTER) + "\n")
    append(log, "".join(f"{OURS}2025-01-31 10:00:00 from Ray or MLflow: {text}\n" for text in ACTIONABLE))
    assert tail.news() == []


def test_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    # The file may come later than its tail.
    tail = Tail(log)
    assert tail.news() == []
    half = len(DISK) // 2
    append(log, DISK[:half])
    assert tail.news() == []
    append(log, DISK[half:])
    assert tail.news() == []
    append(log, f"\n{NO_NODES}")
    assert tail.news() == [DISK]
    append(log, "\n")
    assert tail.news() == [NO_NODES]
    # Half a letter, and none at all.
    log.write_bytes(log.read_bytes() + b"\xff\xfe has been marked dead \xc3")
    assert tail.news() == []
    log.write_bytes(log.read_bytes() + b"\xa9\n")
    (said,) = tail.news()
    assert said.endswith("has been marked dead \u00e9")
    log.unlink()
    assert tail.news() == []

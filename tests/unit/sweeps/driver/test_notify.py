"""What the user's own command is told, and what it cannot do to a sweep."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from drorae.errors import ClusterLostError, UserError
from drorae.runtime.signals import Interrupted, Signals, Stopped
from sweeps.driver import notify
from sweeps.driver.notify import Event, Notifier, split_command

WRITE = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("DRORAE_")}
print(json.dumps(told | {"arguments": sys.argv[2:]}), file=open(sys.argv[1], "a"))
"""
SLEEP = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()}\\n'); time.sleep(600)"


class Told:
    """A notifier of a command that writes down what it is told, and the lines that it says."""

    def __init__(self, folder: Path, code: str = WRITE, place: str = "runs/mine") -> None:
        self.file, self.said = folder / "told", list[str]()
        words = (sys.executable, "-c", code, str(self.file))
        self.notifier = Notifier(words, "mine", place, "drorae resume mine", self.said.append)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def end(self, error: BaseException | None) -> None:
        with self.notifier.ending(lambda: "1 of 3 trials are done", lambda: {"finished": 24, "failed": 2}):
            if error is not None:
                raise error


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_end_of_a_sweep_is_told_once_and_in_the_environment(told: Told) -> None:
    told.end(None)
    told.notifier.end(Event.ERROR, "later")
    assert told.rows() == [
        {name: value for name, value in os.environ.items() if name.startswith("DRORAE_")}
        | {
            "DRORAE_EVENT": "finished",
            "DRORAE_SWEEP": "mine",
            "DRORAE_FOLDER": "runs/mine",
            "DRORAE_MESSAGE": "mine: 24 finished, 2 failed; results in runs/mine",
            "arguments": [],
        }
    ]
    assert told.said == []


@pytest.mark.parametrize(
    ("error", "event", "message"),
    [
        (Interrupted(), "interrupted", "interrupted: 1 of 3 trials are done; to go on: drorae resume mine"),
        (Stopped(signal.SIGTERM), "interrupted", "terminated: 1 of 3 trials are done; to go on: drorae resume mine"),
        (Stopped(signal.SIGHUP), "interrupted", "hung up: 1 of 3 trials are done; to go on: drorae resume mine"),
        (ClusterLostError("the head is gone; 1 of 3"), "error", "error: the head is gone; 1 of 3"),
        (UserError("no answer from\nMLflow"), "error", "error: no answer from MLflow"),
        (OSError(28, "No space left on device"), "error", "error: [Errno 28] No space left on device"),
        (ValueError("a mistake of ours"), "error", "error: ValueError: a mistake of ours"),
    ],
)
def test_whatever_ends_a_sweep_is_told_and_let_through(
    told: Told, error: BaseException, event: str, message: str
) -> None:
    with pytest.raises(type(error)) as raised:
        told.end(error)
    assert raised.value is error
    (row,) = told.rows()
    assert (row["DRORAE_EVENT"], row["DRORAE_MESSAGE"]) == (event, f"mine: {message}")


def test_the_first_trial_that_fails_is_told_once_and_before_the_end(tmp_path: Path) -> None:
    told = Told(tmp_path, f"import time; time.sleep(1)\n{WRITE}")
    told.notifier.failed("capacity=8 failed: it never works")
    told.notifier.failed("capacity=16 failed: nor does this")
    assert not told.file.exists(), "no trial waits for the command"
    told.end(None)
    rows = [(row["DRORAE_EVENT"], row["DRORAE_MESSAGE"]) for row in told.rows()]
    assert rows[0] == ("failed-trial", "mine: capacity=8 failed: it never works")
    assert [event for event, _ in rows] == ["failed-trial", "finished"]


def test_no_credentials_are_told_and_no_line_breaks(tmp_path: Path) -> None:
    told = Told(tmp_path, place="s3://alice:s3cret@host/runs/mine")
    told.notifier.failed("capacity=8 failed: postgresql://alice:s3cret@host/db\0\nhttps://host/?token=s3cret")
    told.end(None)
    texts = [row[name] for row in told.rows() for name in ("DRORAE_MESSAGE", "DRORAE_FOLDER")]
    assert len(texts) == 4 and not any("s3cret" in text or "\n" in text for text in texts)
    assert "alice" not in "".join(texts) and "postgresql://***@host/db" in texts[0]


def test_without_a_command_nobody_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    notifier = Notifier(split_command(None), "mine", "runs/mine", "drorae resume mine", said.append)
    notifier.failed("capacity=8 failed")
    with notifier.ending(lambda: "", dict):
        pass
    assert said == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.abort()", "was ended by signal 6"),
    ],
)
def test_a_command_that_fails_is_one_line_without_its_arguments(
    tmp_path: Path, code: str, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told = Told(tmp_path, f"print('s3cret', flush=True); {code}")
    told.end(None)
    (line,) = told.said
    assert line.startswith(f"notify: {Path(sys.executable).name} {wrong} when told of finished")
    assert "\n" not in line and str(tmp_path) not in line
    assert capfd.readouterr() == ("", "")


def test_a_command_that_is_gone_by_the_end_is_one_line(told: Told) -> None:
    told.notifier.words = ("/nowhere/hook",)
    told.end(None)
    assert len(told.said) == 1 and "hook could not be run (No such file or directory)" in told.said[0]


def test_a_slow_command_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", 2.0)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}, sys.argv[1]])"
    told = Told(tmp_path, child)
    told.end(None)
    assert len(told.said) == 1 and "took longer than 2 s and was ended" in told.said[0]
    pid = int(told.file.read_text())
    while not gone(pid):
        time.sleep(0.05)


def test_ctrl_c_does_not_wait_for_the_command(tmp_path: Path) -> None:
    told = Told(tmp_path, SLEEP)

    def press() -> None:
        while not (told.file.exists() and told.file.read_text().endswith("\n")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), Signals():
        threading.Thread(target=press, daemon=True).start()
        told.end(None)
    assert gone(int(told.file.read_text()))


def test_words_are_split_as_a_shell_would_and_the_program_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "my hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert split_command("'./my hook' 'a b' $HOME | c") == (str(hook), "a b", "$HOME", "|", "c")
    program = split_command("sh -c true")[0]
    assert os.path.isabs(program) and program.endswith("/sh")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "expected a program with its arguments, got nothing; name one"),
        ("  ", "got nothing"),
        ("''", "got nothing"),
        ("echo 'abc", "no closing quotation in the command; quote it"),
        ("no-such-program s3cret", "no-such-program: no such program; give the path of one"),
        ("~/hook", "no such program; .*no shell reads the command"),
        (".", "no such program"),
        ("./plain", "may not be executed; make it so with chmod"),
        ("./script", "a script without a first line such as #!/bin/sh; write one"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "script").write_text("echo hello\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(UserError, match=f"^notify: .*{message}") as refused:
        split_command(command)
    assert "\n" not in str(refused.value) and "s3cret" not in str(refused.value)

"""Commands that the program prints for a person to copy: a shell reads every word as it was meant."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from drorae.runtime.shell import command, program

WORDS = ["plain", "two words", "it's", '"', "$HOME", "`date`", "a;b", "#", "*", "-x", "", "ünï", "tab\there", "a\nb"]


def test_a_shell_reads_the_words_back() -> None:
    line = command("resume", *WORDS)
    printed = subprocess.run(
        ["sh", "-c", f"show() {{ printf '%s\\0' \"$@\"; }}; show {line}"], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split("\0")[1:-1] == ["resume", *WORDS]


def test_words_that_need_no_quotes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert command("resume", "my-sweep", "--root", "runs/a", "--set", "lr=0.1", 3) == (
        "drorae resume my-sweep --root runs/a --set lr=0.1 3"
    )


def test_the_program_is_named_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for called, named in (
        ("drorae", "drorae"),
        ("bin/drorae", "bin/drorae"),
        ("/opt/my tools/drorae", "'/opt/my tools/drorae'"),
        # python -m drorae, a script, a notebook, an interpreter
        ("/somewhere/drorae/cli.py", "drorae"),
        ("train_all.py", "drorae"),
        ("ipykernel_launcher.py", "drorae"),
        ("-c", "drorae"),
        ("", "drorae"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert program() == named
        assert shlex.split(command("status"))[0] == (called if named != "drorae" else "drorae")

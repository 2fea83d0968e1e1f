"""Tables in the width of a terminal, and signs of life of what takes long."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from terminal import CONTROL, Done, impatient, run

from drorae.commands.terminal import _progress_text, working


def shown_table(columns: int, on: str, header: Sequence[str], rows: Sequence[Sequence[str]], **options: Any) -> Done:
    return run(["doctor"], columns=columns, on=on, patch=Table(header, rows, options))  # type: ignore[arg-type]


class Table:
    """In the child: the doctor prints a table."""

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]], options: dict[str, Any]) -> None:
        self.given = (header, rows, options)

    def __call__(self) -> None:
        from drorae.commands.doctor import Doctor
        from drorae.commands.terminal import print_table

        header, rows, options = self.given

        def show(self: Doctor) -> int:
            print_table(header, rows, **options)
            return 0

        Doctor.run = show  # type: ignore[method-assign]


HEADER = ("trial", "size", "loss", "where")


ROWS = [("one [bold]", "8", "0.25", "a/place/of/some/length"), ("two", "16", "0.125", "another/place")]


def test_a_table_that_fits_is_whole() -> None:
    for done in (shown_table(80, "all", HEADER, ROWS), shown_table(20, "none", HEADER, ROWS, drop=["where"])):
        text = CONTROL.sub("", done.terminal or done.stdout)
        assert [line.split()[1::2] for line in text.split("\n")[1:2]] == [list(HEADER)]
        assert "one [bold]" in text and "a/place/of/some/length" in text
        assert not done.stderr and "left out" not in text


def test_a_table_that_does_not_fit_loses_its_least_columns_and_says_which() -> None:
    done = shown_table(
        40, "all", HEADER, ROWS, drop=["where", "loss"], title="a title of more than forty characters, whole"
    )
    text = CONTROL.sub("", done.terminal)
    assert "0.125" in text and "place" not in text
    assert "left out, for want of room: where" in text and "--json prints all" in " ".join(text.split())
    assert text.startswith("a title of more than forty characters, whole\n")
    assert all(len(line) <= 40 for line in text.split("\n")[1:])


def test_a_table_that_still_does_not_fit_becomes_blocks_of_lines() -> None:
    done = shown_table(20, "all", HEADER, ROWS, drop=["loss"])
    assert done.screen() == [
        "trial: one [bold]",
        "  size: 8",
        "  loss: 0.25",
        "  where:",
        "      a/place/of/som",
        "e/length",
        "trial: two",
        "  size: 16",
        "  loss: 0.125",
        "  where:",
        "      another/place",
    ]


def test_work_that_takes_long_is_told_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with working("quick work"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("drorae.commands.terminal.PATIENCE", 0.0)
    monkeypatch.setattr("drorae.commands.terminal.SILENCE_SECONDS", 0.4)
    heard = ""

    def until(word: str) -> None:
        nonlocal heard
        end = time.monotonic() + 300
        while word not in heard and time.monotonic() < end:
            time.sleep(0.02)
            out, err = capsys.readouterr()
            assert out == ""
            heard += err

    with working("measuring") as note:
        until("measuring: ")
        note({"phase": "prepare", "note": "encoding", "done": 1.0, "total": 2.0})
        note({"phase": "phase1", "step": 3.0, "total_steps": 9.0, "loss": 0.5})
        until("phase1")
    lines = list(dict.fromkeys(re.sub(r"for \d+ s", "for a while", line) for line in heard.splitlines()))
    assert lines[:2] == ["measuring ...", "measuring: for a while"]
    # It may have spoken between the two.
    assert lines[-1] == "measuring: phase1 step 3 of 9, loss 0.5" and len(lines) <= 4


class Working:
    """In the child: the doctor works a while, and tells a note."""

    def __call__(self) -> None:
        from drorae.commands.doctor import Doctor
        from drorae.commands.terminal import say, show, working

        def work(self: Doctor) -> int:
            with working("measuring " + "/a/long/path" * 8) as note:
                time.sleep(1)
                note({"phase": "phase1", "step": 3.0, "total_steps": 9.0, "loss": 0.5})
                time.sleep(1)
                say("a note of /some/path/that/is/wider/than/the/terminal")
            show("the result")
            return 0

        Doctor.run = work  # type: ignore[method-assign]
        impatient()


@pytest.mark.parametrize("on", ["all", "stderr"])
def test_work_that_takes_long_moves_on_one_line_of_a_terminal_and_goes(on: Any) -> None:
    done = run(["doctor"], columns=40, on=on, patch=Working())
    pieces = re.split(r"[\n\r]", CONTROL.sub("", done.terminal))
    assert sum("measuring" in piece for piece in pieces) > 2
    assert all(len(piece) <= 40 for piece in pieces if "measuring" in piece)
    note = ["a note of", "    /some/path/that/is/wider/than/the/te", "rminal"]
    assert done.screen() == [*note, *(["the result"] if on == "all" else [])]
    assert done.stdout == ("" if on == "all" else "the result\n")


def test_a_row_of_held_out_images_in_words() -> None:
    row = {"phase": "phase2", "step": 40.0, "held_out.psnr": 21.234, "held_out.images": 200.0}
    assert _progress_text(row) == "phase2 step 40, held-out PSNR 21.23 dB"

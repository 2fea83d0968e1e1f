"""Messages cut to a length."""

from __future__ import annotations

import textwrap

import pytest

from drorae.errors import brief, last_line, shorten


def test_what_fits_stays_on_one_line() -> None:
    assert shorten("as it is", 8) == "as it is"
    assert shorten("two\n  lines\tand\rmore ", 80) == "two lines and more"
    assert shorten("", 10) == ""


@pytest.mark.parametrize("width", range(14, 40))
def test_the_cut_is_behind_a_word(width: int) -> None:
    text = "the tensors are not those of the model"
    assert shorten(text, width) == textwrap.shorten(text, width, placeholder=" ...")


def test_a_word_that_is_too_long_is_cut_within() -> None:
    path = "/a/folder" * 20
    assert shorten(path, 30) == path[:27] + "..."
    assert shorten(f"no such file: {path}", 40) == f"no such file: {path}"[:37] + "..."


def test_the_last_line_of_a_traceback_is_cut_behind_a_word() -> None:
    line = last_line("Traceback\n\nValueError: " + "word " * 100 + "\n\n")
    assert line.startswith("ValueError: word") and line.endswith(" word ...") and len(line) <= 300
    assert last_line("\n \n") == ""


def test_an_error_in_brief_is_one_line_of_limited_length_and_never_empty() -> None:
    assert brief(ValueError("two\n  lines")) == "two lines"
    assert brief(ValueError()) == "ValueError"
    assert brief(ValueError("word " * 100), 20) == "word word word ..."

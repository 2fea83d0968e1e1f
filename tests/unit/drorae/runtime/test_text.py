"""Prose in lines of a given width."""

from __future__ import annotations

from drorae.runtime.text import wrapped


def test_lines_are_broken_between_words_and_hang_below_their_beginning() -> None:
    text = "  one two three four five\nsix"
    assert wrapped(text, 16) == "  one two three\n      four five\nsix"
    assert wrapped(text, None) == text
    assert wrapped(text, 16, hang=0) == "  one two three\n  four five\nsix"


def test_prose_is_broken_between_words_and_nothing_else() -> None:
    text = "  note: the quick brown fox jumps over the lazy dog, see run -x 'a b' or /a/very/long/path/indeed"
    lines = wrapped(text, 20, keep=["run -x 'a b'"]).split("\n")
    assert lines[0] == "  note: the quick" and all(line.startswith("      ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == text.strip()
    assert any("run -x 'a b'" in line for line in lines) and "      /a/very/long/path/indeed" in lines
    assert [len(line) <= 20 for line in lines].count(False) == 1
    assert wrapped(text, None) == text and wrapped(text, 200) == text

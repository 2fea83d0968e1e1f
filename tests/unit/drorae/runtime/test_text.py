"""Prose in lines of a given width."""

from __future__ import annotations

from drorae.runtime.text import wrapped


def test_lines_are_broken_between_words_and_hang_below_their_beginning() -> None:
    text = "  one two three four five\nsix"
    assert wrapped(text, 16) == "  one two three\n      four five\nsix"
    assert wrapped(text, None) == text
    assert wrapped(text, 16, hang=0) == "  one two three\n  four five\nsix"


def test_neither_a_path_nor_what_is_kept_is_broken() -> None:
    path, command = "/a/folder-with-hyphens/" + 40 * "x", "drorae sweep --name mine"
    found = wrapped(f"written to {path}; run {command} again", 20, keep=[command])
    lines = [line.strip() for line in found.splitlines()]
    assert f"{path};" in lines and command in lines
    assert " ".join(lines) == f"written to {path}; run {command} again"

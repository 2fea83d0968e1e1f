"""Paths with braces."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.storage.patterns import braced, is_there


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("odd{name}.tar", ["odd{name}.tar"]),
    ],
)
def test_braces_count_and_list(path: str, found: list[str]) -> None:
    assert [str(place) for place in braced(path)] == found


def test_all_that_a_pattern_stands_for_is_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "s-0.tar").touch()
    assert is_there(str(tmp_path)) and is_there(str(tmp_path / "s-{0..0}.tar"))
    assert not is_there(str(tmp_path / "s-{0..1}.tar")) and not is_there(str(tmp_path / "s-{1..0}.tar"))
    (tmp_path / "s-{0..1}.tar").touch()
    assert is_there(str(tmp_path / "s-{0..1}.tar"))

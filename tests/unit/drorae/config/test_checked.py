"""Dataclasses that refuse values which make no sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from drorae.config.checked import Checked, FieldError, Like, Within


@dataclass(frozen=True)
class Example(Checked):
    count: Annotated[int, Within(1)] = 1
    share: Annotated[float, Within(0, 1, open=True)] = 0.5
    side: Annotated[int, Within(14, multiple=14, or_zero=True)] = 0
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, Annotated[float, Within(0)]] = (0.0, 0.0)
    several: tuple[Literal["x", "y"], ...] = ()
    name: Annotated[str, Like("[a-z]+", "small letters")] = "name"
    flag: bool = False


@pytest.mark.parametrize(
    "good",
    [
        {"count": 3},
        {"share": 0.999},
        {"side": 0},
        {"side": 28},
        {"kind": "b"},
        {"pair": (-1, 2.0)},
        {"several": ("y", "x")},
    ],
)
def test_what_a_field_takes_is_kept(good: dict[str, Any]) -> None:
    for name, value in good.items():
        assert getattr(Example(**good), name) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 0, "1 or more"),
        ("count", 1.0, "a whole number"),
        ("count", True, "a whole number"),
        ("count", "1", "a whole number"),
        ("share", 1, "a number from 0 to 1, without these"),
        ("share", float("nan"), "a finite number"),
        ("share", float("inf"), "a finite number"),
        ("side", 15, "0, or 14 or more, a multiple of 14"),
        ("kind", "c", "one of a, b"),
        ("pair", (0.0,), "a tuple of 2 values"),
        ("pair", (0.0, -1.0), "0 or more"),
        ("pair", "ab", "a tuple of 2 values"),
        ("several", ("x", "z"), "one of x, y"),
        ("several", "x", "a tuple"),
        ("name", "A", "small letters"),
        ("name", None, "text"),
        ("flag", 1, "true or false"),
    ],
)
def test_what_it_does_not_take_is_refused_with_what_it_would(name: str, value: Any, expected: str) -> None:
    with pytest.raises(FieldError) as caught:
        Example(**{name: value})
    assert str(caught.value) == f"{name}: expected {expected}, got {value!r}"
    assert caught.value.field == name

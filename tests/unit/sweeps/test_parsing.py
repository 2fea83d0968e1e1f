"""Axes, ranges and rules as people type them."""

from __future__ import annotations

import pytest

from drorae.config import PRESETS, override
from drorae.errors import UserError
from sweeps.parsing import parse_axis, parse_range, parse_rule
from sweeps.spec import Axis, Range, Search, SweepSpec

BASE = override(PRESETS["smoke"], "phase2.lr", "0.0005")


def test_axes_take_the_type_of_their_field() -> None:
    assert parse_axis("capacity=8, 32,128") == Axis("capacity", (8, 32, 128))
    assert parse_axis("lr=1e-3,3e-4").values == (1e-3, 3e-4)
    assert parse_axis("variant=mean,energy").values == ("mean", "energy")
    assert parse_axis("fusion.incremental=true,false").values == (True, False)
    assert parse_axis("phase2.betas=0.9,0.95;0.5,0.9").values == ((0.9, 0.95), (0.5, 0.9))
    assert parse_axis("fusion.layers=auto;12;2,7,12").values == ((), (12,), (2, 7, 12))


@pytest.mark.parametrize(
    "text",
    [
        "capacity",
        "capacity=",
        "capacity=8,,32",
        "capacity=8.5",
        "capacity=0",
        "fusion.layers=0,2;3",
        "fusion.layers=;2,3",
        "capacity=wide",
        "width=8",
        "fusion=8",
        "fusion.width=8",
        "variant=best",
        "lr=nan",
        "lr=-1",
        "=3",
    ],
)
def test_a_bad_axis_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_axis(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr", Range("lr", 5e-5, 5e-3, log=True)),
        ("lr=1e-4..1e-2", Range("lr", 1e-4, 1e-2, log=True)),
        ("fusion.beta=0.1..0.5", Range("fusion.beta", 0.1, 0.5)),
        ("variant=energy,softmax", Range("variant", values=("energy", "softmax"))),
    ],
)
def test_ranges(text: str, expected: Range) -> None:
    assert parse_range(text, BASE) == expected
    spec = SweepSpec("x", BASE, search=Search((expected,)))
    assert SweepSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("text", ["nothing", "lr=2..1", "lr=a..b", "variant", "fusion.incremental=0..1"])
def test_a_range_that_is_none(text: str) -> None:
    with pytest.raises(UserError):
        parse_range(text, BASE)


@pytest.mark.parametrize("text", ["capacity=8", "capacity=8:gpu=1", "capacity=8:gpus=x", "nonsense=8:gpus=1"])
def test_a_rule_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError):
        parse_rule(text)

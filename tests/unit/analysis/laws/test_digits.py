"""Numbers keep the digits that count, whatever their scale."""

from __future__ import annotations

import math

import pytest

from analysis.laws.digits import between, fixed, share, significant

SCALES = [1e-300, 1e-12, 1e-5, 1e-3, 0.02, 1.0, 31.0, 1e4, 1e9, 1e21, 1e300]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_number_is_within_a_half_percent_of_itself(scale: float, sign: int) -> None:
    value = sign * 1.23456789 * scale
    for text in (significant(value), fixed(value)):
        assert float(text) == pytest.approx(value, rel=5e-3)
        assert text.startswith("-") == (sign < 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-6, 1e-9])
def test_ends_of_an_interval_stay_as_far_apart(scale: float, apart: float) -> None:
    low, high = 1.2 * scale, 1.2 * scale * (1 + apart)
    printed = [float(text) for text in between(low, high).split(" .. ")]
    assert printed[1] - printed[0] == pytest.approx(high - low, rel=0.1)
    printed = [float(fixed(end, high - low)) for end in (low, high)]
    assert printed[1] - printed[0] == pytest.approx(high - low, rel=0.1)


def test_usual_numbers_are_as_they_were() -> None:
    assert [fixed(value) for value in (8.73861, 0.27061, -0.0564312, 31.25)] == [
        "8.7386",
        "0.2706",
        "-0.0564",
        "31.2500",
    ]
    assert between(-0.083512, -0.02941) == "-0.08351 .. -0.02941"
    assert between(1e6, 1.134e8, 6) == "1e+06 .. 1.134e+08"
    assert fixed(0.0) == "0"


def test_open_ends_are_said() -> None:
    assert between(-math.inf, 0.5) == "-inf .. 0.5"
    assert between(0.25, math.inf) == "0.25 .. inf"
    assert significant(math.nan) == "nan"
    assert fixed(math.inf) == "inf"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9470123, "0.9470"), (1.0, "1.0000"), (0.0, "0.0000"), (0.99999871, "0.9999987"),
     (1 - 2e-16, "0.99999999999999978"),
     (3.21e-7, "3.2e-07"), (-4e-9, "-4e-09"), (0.5, "0.5000")],
)  # fmt: skip
def test_a_share_is_one_or_nought_only_where_it_is(value: float, text: str) -> None:
    assert share(value) == text

"""Axes, ranges and rules as people type them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from drorae.config import TrialConfig
from drorae.errors import UserError
from sweeps.resources import Rule
from sweeps.spec import Axis, Range, field_name, read_field, set_field


def parse_axis(text: str) -> Axis:
    """Reads `capacity=8,32,128`. Values of a field that is itself a list are parted by semicolons.

    Raises:
        UserError: no `=`, an unknown field, no values, or values the field cannot take.
    """
    name, equals, listed = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise UserError(f"{text!r}: not an axis; expected name=value,value such as capacity=8,32,128")
    dotted = field_name(name)
    separator = ";" if isinstance(read_field(TrialConfig(), dotted), tuple) else ","
    words = [word.strip() for word in listed.split(separator)]
    if not all(words):
        raise UserError(f"{text!r}: an empty value; expected {name}=value{separator}value")
    return Axis(name, tuple(read_field(set_field(TrialConfig(), name, word), dotted) for word in words))


def parse_range(text: str, base: TrialConfig) -> Range:
    """Reads `lr`, `lr=1e-4..1e-2` or `variant=softmax,energy`.

    A name alone stands for ten times less to ten times more than the base config has. Both ends above 0 and a factor
    of 10 or more between them make the scale logarithmic.

    Raises:
        UserError: an unknown field, or ends that are no range of it.
    """
    name, equals, listed = text.partition("=")
    name = name.strip()
    dotted = field_name(name)
    own = read_field(base, dotted)
    number = isinstance(own, int | float) and not isinstance(own, bool)
    if equals and ".." not in listed:
        return Range(name, values=parse_axis(text).values)
    if not number or (not equals and own <= 0):
        raise UserError(f"{text!r}: cannot be searched like this; expected {name}=VALUE,VALUE or {name}=LOW..HIGH")
    if equals:
        low, high = (read_field(set_field(base, name, end.strip()), dotted) for end in listed.split("..", 1))
    else:
        low, high = (max(1, round(own / 10)), own * 10) if isinstance(own, int) else (own / 10, own * 10)
    if not low < high:
        raise UserError(f"{text!r}: not a range; expected the smaller end first, such as lr=1e-4..1e-2")
    return Range(name, low, high, log=low > 0 and high / low >= 10)


def parse_rule(text: str) -> Rule:
    """Reads `capacity=2048,4096:gpus=4,cpus=8`.

    Raises:
        UserError: it does not read like that.
    """
    who, colon, what = text.rpartition(":")
    if not colon:
        raise UserError(f"{text!r}: expected NAME=V,V:cpus=N,gpus=N,processes=N such as capacity=2048:gpus=4")
    rule = Rule(parse_axis(who))
    known = [field.name for field in fields(Rule) if field.name != "axis"]
    for part in what.split(","):
        name, _, value = part.strip().partition("=")
        if name not in known:
            raise UserError(f"{text!r}: {name!r} is no resource; expected {', '.join(known)}")
        try:
            number: Any = int(value) if name == "processes" else float(value)
        except ValueError:
            raise UserError(f"{text!r}: {value!r} is not a number of {name}") from None
        rule = replace(rule, **{name: number})
    return rule

"""Dataclasses that refuse values which make no sense, field by field, when they are made."""

from __future__ import annotations

import functools
import math
import numbers
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from drorae.errors import UserError


class FieldError(UserError):
    """A field of a config holds what it cannot take.

    Attributes:
        field: the field's name, dotted as far as it is known.
        reason: what was expected and what was found.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Within:
    """The numbers that a field takes, both ends among them unless `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    multiple: int = 1
    or_zero: bool = False
    """0 is taken as well."""

    def holds(self, value: float) -> bool:
        """Whether a number is one of them."""
        if self.or_zero and value == 0:
            return True
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside and (self.multiple == 1 or value % self.multiple == 0)

    def __str__(self) -> str:
        if self.high < math.inf:
            text = f"a number from {self.low:g} to {self.high:g}" + (", without these" if self.open else "")
        elif self.low > -math.inf:
            text = f"a number above {self.low:g}" if self.open else f"{self.low:g} or more"
        else:
            text = "a number"
        text += f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"0, or {text}" if self.or_zero else text


@dataclass(frozen=True)
class Like:
    """The text that a field takes."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        """Whether a text is one of them."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Within(0)]
Positive = Annotated[int, Within(1)]
Weight = Annotated[float, Within(0)]
"""Of a loss, a rate, a norm: nothing below zero."""
Decay = Annotated[float, Within(0, 0.999999999)]
"""Of a running average."""
Share = Annotated[float, Within(0, 1, open=True)]
Name = Annotated[str, Like(r"\S+", "a name")]


@dataclass(frozen=True)
class Checked:
    """A frozen dataclass whose fields are checked against their annotations.

    `Literal`, numbers, text, booleans, other dataclasses, tuples of them, and what `Annotated` adds: `Within`, `Like`.

    Raises:
        FieldError: when it is made with a value that a field cannot take.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, annotation in _annotations(kind).items():
            value = getattr(self, name)
            if wanted := _refused(value, annotation):
                raise FieldError(name, f"expected {wanted}, got {value!r}")

    def check(self) -> None:
        """Raises UserError where the fields, each usable by itself, do not go together."""


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _refused(value: Any, annotation: Any) -> str:
    """What was expected instead of a value, in words; empty where it is what the annotation says."""
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is typing.Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Within | Like)]
        wrong = _refused(value, arguments[0])
        return wrong or next((str(limit) for limit in limits if not limit.holds(value)), "")
    if kind is Literal:
        return "" if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if kind is tuple:
        kinds = [arguments[0]] * len(value) if isinstance(value, tuple) and arguments[-1] is Ellipsis else arguments
        if not isinstance(value, tuple) or len(value) != len(kinds):
            return f"a tuple of {len(kinds)} values" if arguments[-1] is not Ellipsis else "a tuple"
        return next((wrong for item, each in zip(value, kinds, strict=True) if (wrong := _refused(item, each))), "")
    return (
        "" if _is_one(value, annotation) else _NAMES.get(annotation, getattr(annotation, "__name__", "another value"))
    )


_NAMES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}


def _is_one(value: Any, kind: Any) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)

"""Configs to JSON and back, and fields by their dotted names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from drorae.config.checked import FieldError
from drorae.config.generator import GenerationConfig
from drorae.config.schema import TrialConfig
from drorae.errors import UserError

Config = TypeVar("Config")
AUTO = "auto"
"""An empty list of any length, in text and tables."""
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as nested plain dictionaries (tuples become lists), ready for JSON."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return tree


def flatten(config: Any) -> dict[str, Any]:
    """Returns a config as `{"fusion.beta": 0.2, ...}`: dotted names, tuples as lists."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(config).items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def canonical_json(tree: Any) -> str:
    """JSON with sorted keys and no spaces: equal configs give equal text."""
    plain = to_dict(tree) if dataclasses.is_dataclass(tree) else tree
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _convert(annotation: Any, value: Any, name: str) -> Any:
    """Returns `value` (JSON or command-line text) as `annotation`.

    Raises:
        UserError: the field of this name takes something else; the message says what.
    """
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is GenerationConfig and isinstance(value, str):
        return GenerationConfig.named(value)
    if dataclasses.is_dataclass(annotation):
        if not isinstance(value, Mapping):
            raise UserError(f"{name}: expected a group of fields, got {value!r}; name one of its fields instead")
        return from_dict(typing.cast(type, annotation), value, prefix=f"{name}.")
    if kind in (typing.Union, types.UnionType):
        # X | None
        return None if value is None else _convert(arguments[0], value, name)
    if annotation is Any:
        return tuple(value) if isinstance(value, list) else value
    if kind is Literal:
        if value not in arguments:
            raise UserError(f"{name}: {value!r} is not known; choose one of {', '.join(map(str, arguments))}")
        return value
    if kind is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if items == [AUTO] and arguments[-1] is Ellipsis:
            items = []
        if not isinstance(items, list | tuple):
            raise UserError(f"{name}: expected a comma-separated list, got {value!r}")
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(items):
            raise UserError(f"{name}: expected {len(kinds)} values, got {len(items)}")
        return tuple(_convert(each, item, name) for each, item in zip(kinds, items, strict=True))
    if annotation is bool and str(value).lower() not in _TRUTH:
        raise UserError(f"{name}: expected true or false, got {value!r}")
    return _TRUTH[str(value).lower()] if annotation is bool else _convert_scalar(annotation, value, name)


def _convert_scalar(annotation: Any, value: Any, name: str) -> Any:
    """Returns `value` as a whole number, a finite number or text."""
    whole = annotation is not int or not isinstance(value, bool | float)
    try:
        if not whole and (isinstance(value, bool) or not value.is_integer()):
            raise ValueError
        converted = annotation(value)
    except (TypeError, ValueError):
        wanted = "a whole number" if annotation is int else "a number"
        raise UserError(f"{name}: expected {wanted}, got {value!r}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UserError(f"{name}: expected a finite number, got {value!r}")
    return converted


@contextlib.contextmanager
def _under(prefix: str) -> Iterator[None]:
    """Puts the dotted name of a group before what its fields refuse."""
    try:
        yield
    except FieldError as error:
        raise FieldError(prefix + error.field, error.reason) from None


def from_dict(kind: type[Config], tree: Mapping[str, Any], prefix: str = "") -> Config:
    """Returns the config of this kind that `to_dict` made `tree` of; fields left out keep their defaults.

    Raises:
        UserError: a field that is not known, or a value it cannot take; the message begins with `prefix` and its name.
    """
    hints = typing.get_type_hints(kind)
    if unknown := sorted(tree.keys() - hints.keys()):
        remedy = "correct it, or, in a file made by a newer drorae, update this one"
        raise UserError(f"{prefix}{unknown[0]}: no such field; known here: {', '.join(sorted(hints))}; {remedy}")
    values = {key: _convert(hints[key], value, prefix + key) for key, value in tree.items()}
    with _under(prefix):
        return kind(**values)


def override(config: Config, name: str, value: Any, prefix: str = "") -> Config:
    """Returns a config with one field changed.

    Args:
        config: a trial's config, or a group of it.
        name: dotted name of the field.
        value: what it takes; text is converted to the field's type.
        prefix: dotted name of the group that `config` is, with a dot at its end, for messages.

    Raises:
        UserError: no such field, or a value it cannot take.
    """
    head, _, rest = name.partition(".")
    hints = typing.get_type_hints(type(config))
    if head not in hints:
        raise UserError(f"{prefix}{name}: no such field; known here: {', '.join(prefix + known for known in hints)}")
    group = getattr(config, head)
    if rest and not dataclasses.is_dataclass(group):
        raise UserError(f"{prefix}{name}: {head} has no fields of its own")
    changed = override(group, rest, value, f"{prefix}{head}.") if rest else _convert(hints[head], value, prefix + head)
    with _under(prefix):
        return typing.cast(Config, dataclasses.replace(typing.cast(Any, config), **{head: changed}))


def load_config(path: str | Path) -> TrialConfig:
    """Reads the resolved config a run saved (`config.json`)."""
    try:
        tree = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; a finished run keeps its own as config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); expected the config.json of a run") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected one JSON object with the fields of a trial")
    return from_dict(TrialConfig, tree)

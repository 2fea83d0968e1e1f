"""A sweep: a base config and axes, expanded to a list of trials without duplicates."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from drorae.config import AUTO, LOCATIONS, TrialConfig, config_hash, flatten, from_dict, override, to_dict
from drorae.errors import UserError, shorten
from drorae.machine.needs import check_encoder
from drorae.machine.precision import settled
from drorae.metrics.registry import METRICS
from drorae.storage.files import LONGEST_NAME

ALIASES: Mapping[str, str] = types.MappingProxyType(
    {
        "capacity": "fusion.expert_hidden_dim",
        "layers": "fusion.num_layers",
        "variant": "fusion.variant",
        "lr": "phase2.lr",
        "seed": "seed",
    }
)
"""Short names of axes and the config fields they stand for. Any other field goes by its dotted name."""

_POSITIVE = ("fusion.expert_hidden_dim", "phase2.lr")


@dataclass(frozen=True)
class _Varied:
    """A config field, by alias or dotted name."""

    name: str

    @property
    def field(self) -> str:
        """The dotted config field.

        Raises:
            UserError: no such field.
        """
        return field_name(self.name)


@dataclass(frozen=True)
class Axis(_Varied):
    """A config field (alias or dotted name) and the values it takes."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range(_Varied):
    """A config field (alias or dotted name) and where a search may put it: between two ends, or one of some values."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a search may propose this value."""
        return value in self.values if self.values else self.low <= value <= self.high


@dataclass(frozen=True)
class Search:
    """What Optuna looks for in each configuration of a sweep; seeds of a configuration share a search."""

    ranges: tuple[Range, ...]
    objectives: tuple[str, ...] = (METRICS[0].name,)
    """Metrics, or fusion_params, train_seconds, device_seconds, train_flops; several: their Pareto set."""
    trials: int = 8
    """Trials per configuration, the base config's own values first."""
    sampler: Literal["tpe", "random", "gp", "nsga2"] = "tpe"
    pruner: Literal["none", "median", "hyperband", "asha"] = "none"
    """Ends hopeless trials early by the mean training loss of their epochs."""


@dataclass(frozen=True)
class SweepSpec:
    """A named sweep: every combination of the axes' values, crossed with the listed points, over `base`."""

    name: str
    base: TrialConfig
    axes: tuple[Axis, ...] = ()
    listed: tuple[dict[str, Any], ...] = ()
    """Explicit points: each sets some fields; empty means one point that sets none."""
    search: Search | None = None
    """Varied by Optuna within every combination."""
    check_convergence: bool = False
    """Also run the smallest and the largest size for twice the epochs (`sweeps.checks`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        axes = [dataclasses.asdict(axis) for axis in self.axes]
        tree: dict[str, Any] = {
            "name": self.name,
            "base": to_dict(self.base),
            "axes": axes,
            "listed": list(self.listed),
        }
        if self.search is not None:
            tree["search"] = dataclasses.asdict(self.search)
        if self.check_convergence:
            tree["check_convergence"] = True
        return dict(json.loads(json.dumps(tree)))

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> SweepSpec:
        """The inverse of `to_dict`.

        Raises:
            UserError: a field is missing or unusable.
        """
        try:
            axes = tuple(Axis(str(axis["name"]), tuple(axis["values"])) for axis in tree["axes"])
            listed = tuple(dict(point) for point in tree["listed"])
            search = None
            if tree.get("search"):
                known = dict(tree["search"])
                ranges = tuple(Range(**item | {"values": tuple(item["values"])}) for item in known.pop("ranges"))
                search = Search(ranges, tuple(known.pop("objectives")), **known)
            checked = bool(tree.get("check_convergence"))
            return SweepSpec(str(tree["name"]), from_dict(TrialConfig, tree["base"]), axes, listed, search, checked)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a sweep ({error!r}); expected the sweep.json that a sweep wrote") from None


@functools.cache
def _fields() -> frozenset[str]:
    """Dotted names of all of a config's fields; a sweep asks for them several times a trial."""
    return frozenset(flatten(TrialConfig()))


def field_name(name: str) -> str:
    """The dotted config field an axis name stands for.

    Raises:
        UserError: no such field, or a group of fields.
    """
    dotted = ALIASES.get(name, name)
    if dotted not in _fields():
        inner = sorted(item for item in _fields() if item.startswith(f"{dotted}."))
        hint = ", ".join(inner) if inner else f"{', '.join(ALIASES)}, or a config field such as phase2.epochs"
        raise UserError(f"{name}: not something a sweep can vary; expected one of {hint}")
    return dotted


def short_name(dotted: str) -> str:
    """The alias of a dotted field, or the field itself."""
    return next((alias for alias, target in ALIASES.items() if target == dotted), dotted)


def read_field(config: TrialConfig, dotted: str) -> Any:
    """The value a config has in a dotted field."""
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def as_cell(value: Any) -> Any:
    """What a table shows of a field's value: lists with commas, and `auto` for an empty one."""
    return (",".join(map(str, value)) or AUTO) if isinstance(value, tuple) else value


def point_label(config: TrialConfig, names: Sequence[str]) -> str:
    """What a config has in the fields of these dotted names: `capacity=8 seed=0`."""
    return " ".join(f"{short_name(name)}={as_cell(read_field(config, name))}" for name in names)


def set_field(config: TrialConfig, name: str, value: Any) -> TrialConfig:
    """Returns the config with another value in the field of an axis name.

    Raises:
        UserError: no such field, or a value that it cannot take.
    """
    dotted = field_name(name)
    changed = override(config, dotted, value)
    if dotted in _POSITIVE and not read_field(changed, dotted) > 0:
        raise UserError(f"{name}: expected a value above 0, got {value!r}")
    return changed


def expand(spec: SweepSpec) -> list[TrialConfig]:
    """The sweep's trials, in the order of its axes (the last varies fastest), each config once.

    A precision of `auto` is what this machine settles it to.

    Raises:
        UserError: an unusable name, an axis given twice or without values, or a value its field cannot take.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name) or len(spec.name) > LONGEST_NAME:
        expected = f"letters, digits, dots, dashes, at most {LONGEST_NAME}"
        raise UserError(f"{shorten(spec.name, 60)!r}: not usable as a sweep's name; expected {expected}")
    seen: set[str] = set()
    for axis in spec.axes:
        if axis.field in seen:
            raise UserError(f"{axis.name}: this axis is given twice; give all its values at once")
        if not axis.values:
            raise UserError(f"{axis.name}: an axis without values; expected at least one")
        seen.add(axis.field)
    for item in spec.search.ranges if spec.search else ():
        if item.field in LOCATIONS:
            raise UserError(f"{item.name}: a place is nothing to search; give it as an axis, --vary {item.name}=A,B")
    trials: dict[str, TrialConfig] = {}
    for values in itertools.product(*(axis.values for axis in spec.axes)):
        for point in spec.listed or ({},):
            config = spec.base
            for name, value in [*zip((axis.name for axis in spec.axes), values, strict=True), *point.items()]:
                config = set_field(config, name, value)
            config = settled(labelled(config, spec))
            config.check()
            check_encoder(config)
            trials.setdefault(config_hash(config), config)
    return list(trials.values())


def labelled(config: TrialConfig, spec: SweepSpec) -> TrialConfig:
    """A trial of a sweep, told apart from those that differ from it in a place only: such as other images."""
    names = [axis.name for axis in spec.axes] + [name for point in spec.listed for name in point]
    places = [name for name in dict.fromkeys(map(field_name, names)) if name in LOCATIONS]
    return replace(config, label=point_label(config, places)) if places and not config.label else config


def varied_fields(configs: Sequence[TrialConfig]) -> list[str]:
    """Dotted names of the fields in which the configs differ."""
    if not configs:
        return []
    flat = [flatten(config) for config in configs]
    found = [name for name in flat[0] if any(other[name] != flat[0][name] for other in flat)]
    # A label only repeats the place that it tells apart.
    return [name for name in found if name != "label" or not LOCATIONS.keys() & set(found)]
